"""The settings of pre-training: a field is a flag, its docstring the help, its value what the run folder records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from moco.data.config import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train an encoder on unlabelled images by momentum contrast."""

    data: str
    """Images: a folder (flat, class folders, or train/ and val/ or test/ of either), a text list of paths, or one of
    cifar10, fashion-mnist, digits. Labels, where there are any, only serve the kNN monitor."""
    out: Path
    """Run folder. A run of the same config that is already there goes on, or is left alone if it is finished."""

    arch: str | None = "resnet50"
    """Backbone: resnet18, resnet18-w16 (base width 16), resnet50, resnet50-2x (full width twice), resnext50-32x8d, any
    other classification model of torchvision by its name, or timm:NAME, any network of timm that gives pooled features.
    With --init-weights that of the weights, unless another of the same tensors is given."""
    stem: Literal["cifar", "imagenet"] | None = "imagenet"
    """First layers of a ResNet: cifar is a 3x3 convolution without max-pooling, for images of up to about 64 pixels.
    With --init-weights those of the weights."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection head on the backbone: one layer (v1), or two with a ReLU between them (v2). Not part of the result."""
    feature_dim: int = 128
    """C: length of the vectors that are contrasted."""
    hidden_dim: int | None = None
    """Width of the MLP head's inner layer; by default that of the backbone's features (2048 for resnet50)."""
    init_weights: str | None = None
    """Weights to start from: a run, a checkpoint, an encoder.safetensors, another project's checkpoint, or published
    ones, timm:NAME, timm:NAME@FILE or torchvision:NAME (docs/interop.md). --arch, --stem, --image-size, --mean and
    --std are theirs unless given. f_k and the queue are taken too where the file has them and they fit."""

    dictionary: Literal["queue", "memory-bank", "in-batch"] = "queue"
    """Where the keys come from: the momentum encoder's last K keys (MoCo), one stored feature for each image
    (InstDisc), or the batch itself with gradient to both sides (end-to-end)."""
    queue_size: int = 65536
    """K: negative keys that each query is compared with. Best well below the number of images. With memory-bank, how
    many are drawn; with in-batch K is the batch size - 1, whatever is given here."""
    key_momentum: float = 0.999
    """m: theta_k <- m theta_k + (1 - m) theta_q after every step. The fewer steps the run has, the smaller it must be:
    0.999 suits 10^5 steps and more, 0.99 some 10^4."""
    temperature: float = 0.07
    """tau: divides the similarities in the loss."""
    bank_momentum: float = 0.5
    """b: share of the old entry that a memory bank keeps."""
    symmetric: bool = False
    """Contrast both ways, each view once query and once key, and add the two losses: twice the work for an image."""
    mask_own_keys: bool = False
    """Do not count an image's own older keys in the queue as its negatives."""
    hard_negatives: int = 0
    """N: mix further negatives of this many of the keys that are most similar to each query (MoCHi, arXiv:2010.01028);
    0: do not. At most half of K."""
    mix: int = 0
    """s: how many of them lie between two of these keys."""
    mix_query: int = 0
    """s': how many lie between one of these keys and the query, nearer to the key."""
    bn_groups: int | None = None
    """G: batch normalisation takes its statistics over G parts of the batch, as if on G devices, and the keys are
    shuffled over them (shuffling BN). 1 lets the encoder cheat on one process. Default 8, or the number of processes
    where that is larger."""

    augment: Literal["v1", "v2", "cifar"] = "v1"
    """Random views: v1, v2 (with blur and weaker hue changes), or cifar (without blur, with smaller crops)."""
    image_size: int | None = 224
    """Side of the images in pixels, in evaluations too. With --init-weights that of the weights, unless given."""
    view_size: int | None = None
    """Side of the training views, where they are to be smaller than --image-size: it saves time."""
    decode: Literal["exact", "scaled"] = "scaled"
    """How JPEG photographs are decoded: exact, every pixel, or scaled, at a half, a quarter or an eighth of their size
    where every crop of a photograph still has as many pixels as a view. That is faster for large photographs and
    changes a view by 0.3 of 255 on average (docs/views.md)."""
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    """Subtracted from red, green and blue (in [0, 1]). With --init-weights that of the weights, unless given."""
    std: tuple[float, float, float] | None = IMAGENET_STD
    """Red, green and blue are then divided by this. With --init-weights that of the weights, unless given."""

    epochs: int = 200
    """Passes over the images."""
    max_steps: int | None = None
    """Length of the run in steps, instead of --epochs; the schedule ends with it."""
    batch_size: int = 256
    """N: images for one step, over all processes and parts."""
    accumulate: int = 1
    """Work through a batch in this many parts, to save memory. With a queue or a bank the result is the same, if the
    parts hold whole BN groups; with in-batch keys each part has only its own negatives."""
    base_lr: float = 0.03
    """Learning rate at a batch of 256; it grows in proportion to the batch."""
    lr: float | None = None
    """Learning rate, instead of --base-lr x batch / 256."""
    schedule: Literal["step", "cosine"] = "step"
    """The rate's course: multiplied by --lr-decay at each of --milestones (v1), or half a cosine down to 0 (v2)."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Shares of the run after which --schedule step lowers the rate: epochs 120 and 160 of 200."""
    lr_decay: float = 0.1
    """What it is multiplied by there."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises to its full value first."""
    sgd_momentum: float = 0.9
    """Momentum of SGD (not m)."""
    weight_decay: float = 1e-4
    """Weight decay of SGD."""

    seed: int = 0
    """Of everything random: weights, order of the images, views, shuffles."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products; auto is bf16 where the hardware has it. Loss, queue and m stay fp32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    compile: bool = False
    """Compile the encoders before the first step. It takes a minute or more, and pays on GPUs and for small, narrow
    nets; on a CPU large nets become slower (docs/benchmarks.md)."""
    recompute: bool = False
    """Keep only the inputs of a ResNet's blocks and compute the rest once more for the gradient: much less memory for a
    third more time."""
    timeout: float = 600.0
    """Seconds that a process waits for the others before it gives up and names the one that stalls."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""

    log_every: int = 20
    """Steps between two lines of metrics (0: never)."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints (0: only at the end); by default an epoch, at most 1000."""
    knn_every: int | None = None
    """Steps between two evaluations by the monitor (0: never); by default an epoch."""
    knn_images: int = 10000
    """Images in the monitor's bank, at most, and a fifth as many queries."""
    knn_k: int = 200
    """Neighbours that vote in the monitor."""
    knn_temperature: float = 0.1
    """Weight of a vote: exp(similarity / this)."""
    accept_changed_data: bool = False
    """Go on with a run though images were added, removed or changed since it began."""
    json: bool = False
    """End with one JSON object on standard output."""


@dataclass(frozen=True)
class ResumeConfig:
    """Go on with a run that was interrupted, from its newest sound checkpoint."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    workers: int | None = None
    """Processes that load images, where it is to be another number."""
    accept_changed_data: bool = False
    """Go on though images were added, removed or changed since the run began."""
    json: bool = False
    """End with one JSON object on standard output."""


def negatives(config: PretrainConfig) -> int:
    """How many negatives a query is compared with: K, and those that are mixed of them."""
    return shared_negatives(config) + config.mix + config.mix_query


def shared_negatives(config: PretrainConfig) -> int:
    """K: how many keys there are for all queries."""
    return config.batch_size // config.accumulate - 1 if config.dictionary == "in-batch" else config.queue_size
