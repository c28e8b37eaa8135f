"""The settings of pre-training: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from moco.core.stems import Stem
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD, Bands, ChannelCount, Excluded, MostPixels, NoData, WhiteLevel
from moco.data.pairconfig import HiddenShare, OwnPretextAgain, PartnerData, PatchSide, PretextName, SeriesList, Within
from moco.data.viewconfig import AugmentName, FlipShare, QuarterTurns
from moco.runtime.fields import (
    RUN,
    AcceptChangedData,
    BatchSize,
    Count,
    CountOrZero,
    D,
    Device,
    Earlier,
    Finite,
    JsonOutput,
    KeyCountOrZero,
    KnnNeighbours,
    KnnTemperature,
    LogEvery,
    Loggers,
    Minutes,
    NotNegative,
    Positive,
    Precision,
    RunFolder,
    Seconds,
    Seed,
    SgdMomentum,
    Share,
    Side,
    Threads,
    Timeout,
    W,
    WarmupEpochs,
    WeightDecay,
    Width,
    Workers,
)  # fmt: skip


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train an encoder on unlabelled images by momentum contrast."""

    data: Annotated[str, D]
    """Images: a folder (flat, with one folder per class, or with train/, val/ and test/, each flat or by class), a text
    list of paths, a pack, tar shards, an archive, Parquet files, a saved Hugging Face data set,
    hf://datasets/OWNER/NAME, videos, or one of cifar10, fashion-mnist, digits. Recipe text: text files in such folders,
    a list of them, or a file with a document per line. Training uses train/ and unlabeled/, never val/, test/ or
    labels. Labels only measure kNN accuracy; --whiten and --keep best choose by it."""
    out: RunFolder

    arch: str | None = "resnet50"
    """Backbone: resnet18, resnet18-w16 (base width 16), resnet50, resnet50-2x (twice the width), resnext50-32x8d,
    vit-SIZE-PATCH (a transformer: tiny, small or base, on patches of 2, 4, 8 or 16 pixels), any other classification
    model of torchvision by its name, timm:NAME (any network of timm that gives pooled features), or for documents
    bytes-ngrams, bytes-tiny or bytes-small. --init-weights sets it unless you give it."""
    stem: Stem | None = "imagenet"
    """First layers of a ResNet: cifar is a 3x3 convolution without max-pooling, for images of up to about 64 pixels
    (-padded: it pads by 2; -pooled: with max-pooling; -linear: without a ReLU after it, as other projects build them).
    --init-weights sets it unless you give it."""
    head: Literal["linear", "mlp", "mlp-bn"] = "linear"
    """Projection head: linear has one layer (v1), mlp two with a ReLU between them (v2), mlp-bn three with batch
    normalisation after each (v3). Evaluations leave it out."""
    predictor: Literal["none", "mlp-bn"] = "none"
    """Prediction head that follows the projection head in f_q, and not in f_k: mlp-bn has two layers with batch
    normalisation (v3). It is dropped after training."""
    feature_dim: Width = 128
    """C: length of the vectors that the loss contrasts."""
    hidden_dim: Width | None = None
    """Width of the MLP heads' inner layers; by default that of the backbone's features (2048 for resnet50)."""
    init_weights: Annotated[str | None, W] = None
    """Weights to start from: a run, a checkpoint, an encoder.safetensors, another project's checkpoint, published
    weights (timm:NAME, timm:NAME@FILE, torchvision:NAME or hf://OWNER/NAME), or the word teacher for
    the weights of --teacher. They also set --arch, --stem, --image-size, --mean and --std unless you give these. A key
    encoder and a queue in the file are loaded, too, if they fit."""
    freeze_patches: bool = False
    """Leave a transformer's patch projection at its initial weights, which keeps its training stable (v3)."""
    init: Literal["kaiming", "torch", "whitened"] = "kaiming"
    """Initial weights of a ResNet's convolutions: kaiming (normal by fan-out, as in the papers), torch (PyTorch's
    smaller uniform ones: more is learned early), or whitened: as torch, but the first convolution whitens the images'
    patches, and most is learned early. With --init-weights, whitened lets a new head read whitened features."""

    teacher: Annotated[str | None, W] = None
    """Weights of a frozen teacher, of any architecture, that makes the keys (SEED, arXiv:2101.04731)."""
    teacher_views: Literal["cached", "live"] = "cached"
    """cached encodes every image once, before the first step, and keeps the features; live encodes each key view."""
    teacher_crops: CountOrZero = 0
    """Random crops of each image that the teacher encodes, too, with --teacher-views cached. In one epoch
    the student's views come from the whole images, in the next from the first of these crops, and so on in turn."""
    teacher_size: Side | None = None
    """Side in pixels at which a teacher encodes whole images; by default its own image size."""
    teacher_temperature: NotNegative = 0.1
    """Divides the teacher's similarities, which the student learns to match; 0 is InfoNCE."""

    dictionary: Literal["queue", "memory-bank", "in-batch"] = "queue"
    """Where the keys come from. queue: the momentum encoder's last K keys (MoCo); memory-bank: one stored feature for
    each image (InstDisc); in-batch: the batch itself, with gradient to both sides (end-to-end)."""
    queue_size: KeyCountOrZero = 65536
    """K: negative keys that each query is compared with, best well below the number of images. A memory bank draws K of
    its entries. With --batch-keys it may be 0. Ignored with --dictionary in-batch, where K is the batch size - 1."""
    batch_keys: bool = False
    """Compare each query also (with --queue-size 0: only) with the momentum keys of its batch's other images (v3)."""
    key_momentum: Share = 0.999
    """m: theta_k <- m theta_k + (1 - m) theta_q. Shorter runs need a smaller m: 0.999 for 10^5 steps, 0.99 for 10^4."""
    key_momentum_schedule: Literal["constant", "cosine"] = "constant"
    """Whether m stays as it is, or rises to 1 along half a cosine (v3)."""
    temperature: Positive = 0.07
    """tau: divides the similarities in the loss."""
    scale_loss: bool = False
    """Multiply the loss by 2 tau before its gradient, which then depends less on tau (v3). Logs show it without."""
    bank_momentum: Share = 0.5
    """b: share of its old entry that the memory bank keeps when it stores a feature."""
    symmetric: bool = False
    """Contrast both ways: each view is query once and key once, and the two losses are added. This doubles the work."""
    mask_own_keys: bool = False
    """Exclude an image's own older keys in the queue from its negatives."""
    hard_negatives: KeyCountOrZero = 0
    """N: mix negatives from the N keys most similar to a query (MoCHi, arXiv:2010.01028); 0, or at most K / 2."""
    mix: KeyCountOrZero = 0
    """s: number of negatives that are each mixed from two of these keys."""
    mix_query: KeyCountOrZero = 0
    """s': number of negatives that are each mixed from one of these keys and the query, nearer to the key."""
    blend: bool = False
    """Mix a batch's query views by mixup or CutMix, and their losses in the same shares; delays overfitting."""
    bn: Literal["train", "keep", "frozen"] = "train"
    """Batch normalisation in the backbone: train normalises each group by its own statistics; keep normalises by the
    running statistics of --init-weights, which then never change, and trains scale and shift; frozen trains neither."""
    bn_groups: BatchSize | None = None
    """G: groups of the batch, each with its own statistics in batch normalisation, as if on G devices; the keys are
    shuffled over them (shuffling BN). With 1 group the encoder of a single process can cheat. Where a recipe sets no
    number: 8, or the number of processes if that is larger; 1 if --bn keeps the statistics."""
    pretext: PretextName = "views"
    within: Within = 5
    series: SeriesList = None
    hidden: HiddenShare = 0.5
    patch: PatchSide = 4
    partner: PartnerData = None
    partner_encoder: Literal["shared", "own"] = "shared"
    """Which encoder takes the images of --partner: shared, that of --data; or own, a second one, for other channels
    too. Queries of each side are then compared with keys of the other; it needs --symmetric."""
    augment: AugmentName = "v1"
    flip: FlipShare = 0.5
    quarter_turns: QuarterTurns = False
    image_size: Side | None = 224
    """Side of whole images in pixels (text: bytes of a span). --init-weights sets it, except in reduced."""
    view_size: Side | None = None
    """Side of views in pixels (text: bytes). With --init-weights, or if the recipe sets none: that of images."""
    small_views: bool = False
    """Without --view-size, train on views of 4/7 of the weights' own image size, where the network takes that size."""
    decode: Annotated[Literal["exact", "scaled"], Earlier("exact")] = "scaled"
    """How JPEG photographs are decoded: exact decodes every pixel; scaled decodes at a half, a quarter or an eighth of
    the size if every crop still has at least as many pixels as a view. scaled is faster for large photographs and
    changes a view by 0.3 of 255 on average."""
    mean: tuple[Finite, ...] | None = IMAGENET_MEAN
    """Mean of red, green and blue (in [0, 1]), which is subtracted from every image. --init-weights sets it unless you
    give it. The mean of other channels is measured."""
    std: tuple[Positive, ...] | None = IMAGENET_STD
    """Standard deviation of red, green and blue, by which every image is then divided. --init-weights sets it unless
    you give it. The deviation of other channels is measured."""
    channels: Annotated[ChannelCount, Earlier("rgb")] = "auto"
    bands: Bands = ()
    no_data: NoData = None

    epochs: Count = 200
    """Passes over the images."""
    max_steps: Count | None = None
    """Length of the run in steps, instead of --epochs; the schedule ends with it."""
    end_after: Seconds | None = None
    """Time limit in seconds, including evaluations and checkpoints. At each twentieth of it the run adjusts its length
    to the measured speed, and stretches or compresses the rest of the schedule."""
    end_spare: CountOrZero = 0
    """Reserves the time of so many steps within --end-after for what follows the run, such as an evaluation."""
    earlier_lengths: tuple[tuple[Count, Count], ...] = ()
    """STEP LENGTH pairs that --end-after has written: until STEP the run was planned for LENGTH steps. With them and
    the last --max-steps a run can be repeated bit for bit on a machine of another speed."""
    batch_size: BatchSize = 256
    """N: images per step, over all processes and all parts of --accumulate."""
    accumulate: BatchSize = 1
    """Parts in which a batch is processed one after the other, to save memory. With a queue or a bank the result is the
    same if the parts hold whole BN groups; with in-batch keys each part has only its own negatives."""
    base_lr: Positive = 0.03
    """Learning rate for a batch of 256. It grows in proportion to --batch-size."""
    lr: Positive | None = None
    """Learning rate; by default --base-lr x batch / 256."""
    head_lr: Positive | None = None
    """Learning rate of the projection head; by default the same as the rest. A new head on published weights needs a
    larger rate than the weights tolerate. It follows --schedule."""
    head_steps: CountOrZero = 0
    """Train only the head in the first so many steps, at most half of all. A new head's first gradients harm the
    network of --init-weights."""
    schedule: Literal["step", "cosine", "cosine-after-warmup"] = "step"
    """How the learning rate falls: by --lr-decay at each of --milestones (v1), along half a cosine to 0 over the whole
    run (v2), or along one that begins after the warm-up (v3)."""
    milestones: tuple[Share, ...] = (0.6, 0.8)
    """Shares of the run after which --schedule step lowers the learning rate; 0.6 of 200 epochs are 120."""
    lr_decay: Positive = 0.1
    """Factor by which --schedule step multiplies the learning rate at each of --milestones."""
    warmup_epochs: WarmupEpochs = 0.0
    """Epochs over which the learning rate first rises to its full value."""
    optimizer: Literal["sgd", "muon", "adamw", "lars"] = "sgd"
    """sgd; muon for the inner kernels of ResNets and of transformers over bytes, whose steps it makes equally large in
    every direction, and sgd for all else; adamw, for transformers; or lars, sgd with steps in proportion to each
    layer's weights, for batches of thousands. With muon the first epochs learn much more."""
    muon_lr: Positive = 0.05
    """Learning rate of muon: the share of its norm by which a step moves a kernel. It follows --schedule."""
    muon_momentum: Share = 0.9
    """Momentum of muon (not m)."""
    sgd_momentum: SgdMomentum = 0.9
    weight_decay: Annotated[WeightDecay, tyro.conf.arg(help="Weight decay; adamw, lars: not of biases, norms.")] = 1e-4

    seed: Seed = 0
    """Seed of everything random: initial weights, order of the images, views, shuffles."""
    precision: Precision = "auto"
    device: Device = "auto"
    compile: Annotated[Literal["auto", "on", "off"], Earlier("off", ((True, "on"), (False, "off")))] = "auto"
    """Whether to compile the encoders before the first step, which takes a minute or more. auto does so on an NVIDIA
    GPU in runs of 5,000 steps or more, if it is faster when both ways are timed."""
    recompute: bool = False
    """Recompute a ResNet's activations for the gradient: much less memory, a third more time."""
    deterministic: bool = False
    """Let a GPU repeat a run bit for bit, by slower algorithms. A CPU does so anyway."""
    timeout: Timeout = 600.0
    threads: Threads = None
    workers: Workers = None
    log_every: LogEvery = 20
    logger: Loggers = ()
    checkpoint_every: CountOrZero | None = None
    """Steps between two checkpoints (0: only at the end); by default one epoch, at most 1000 steps."""
    knn_every: CountOrZero | None = None
    """Steps between two evaluations by kNN during training (0: never); by default 1 to 4 epochs."""
    knn_images: Count = 10000
    """Largest number of training images that vote in these evaluations; up to a fifth as many are classified."""
    knn_k: KnnNeighbours = None
    knn_temperature: KnnTemperature = 0.1
    keep: Literal["best", "last"] = "last"
    """Which encoder the run ends with. last: the last one. best: the best by the evaluations during training, which is
    the initial one unless another classifies clearly more images correctly; encoder-last.safetensors holds the last."""
    whiten: CountOrZero = 0
    """Whiten the finished encoder's features by the statistics of this many training images (0: do not)."""
    exclude: Excluded = ()
    white_level: Annotated[WhiteLevel, Earlier(65535)] = None
    most_pixels: MostPixels = None
    accept_changed_data: AcceptChangedData = False
    json: JsonOutput = False


@dataclass(frozen=True)
class AutoConfig:
    """Choose the method, the network and the length of a run for your images, this machine and --minutes, then train.

    You can also give any flag of moco pretrain (moco pretrain quick --help-all lists them), such as --init-weights W,
    weights to try first, or --teacher W, weights from which to make a small network; W is a run, a checkpoint, or
    published weights such as timm:tf_efficientnet_lite0. Labels, if there are any, choose the method and the encoder,
    and never train.
    """

    minutes: Minutes = field(default=10.0, kw_only=True)
    """Total time: start, measurements, training, evaluations during training (--knn-every) and at the end."""
    data: Annotated[str, D]
    """Images: a folder, with subfolders or without, a text list, an archive, a pack, Parquet files, videos, or another
    form that moco pretrain quick --help lists."""
    out: RunFolder
    goal: Annotated[Literal["accurate", "small"] | None, tyro.conf.arg(name="for")] = None
    """accurate: the best features, from published weights or from scratch, whichever should end better. small: a small,
    fast network, from published weights: adapted to images of 64 pixels or, if their network is large, as its teacher.
    Without such weights, or if they do not suit the images, both train from scratch. Default: accurate; small with
    --teacher."""
    download: Literal["ask", "yes", "no"] = "ask"
    """Download published weights if this machine has none; ask asks on a terminal, and elsewhere downloads nothing."""
    device: Device = "auto"
    json: JsonOutput = False


@dataclass(frozen=True)
class ResumeConfig:
    """Continue an interrupted run from its newest valid checkpoint."""

    run: Annotated[tyro.conf.Positional[Path], RUN]
    """Run folder."""
    data: Annotated[str | None, D] = None
    """New place of the images, if they were moved; the images must be the same."""
    partner: Annotated[str | None, D] = None
    """New place of the images of --partner, if they were moved; the images must be the same."""
    series: Annotated[str | None, tyro.conf.arg(metavar="FILE", help="New place of the list of --series.")] = None
    pretext: OwnPretextAgain = None
    logger: Loggers = ()
    workers: Annotated[Workers, tyro.conf.arg(help="Processes that load images; by default as many as before.")] = None
    accept_changed_data: AcceptChangedData = False
    json: JsonOutput = False
