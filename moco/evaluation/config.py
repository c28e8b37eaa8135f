"""The settings of the evaluations: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from moco.core.stems import Stem
from moco.data.config import Excluded, MostPixels, WhiteLevel
from moco.evaluation.label_share import read_label_share
from moco.runtime.fields import (
    BatchSize,
    Count,
    CountOrZero,
    D,
    Device,
    JsonOutput,
    KnnNeighbours,
    KnnTemperature,
    Positive,
    Precision,
    Range,
    Repetitions,
    Seed,
    Side,
    Threads,
    WarmupEpochs,
    WeightDecay,
    Workers,
)

Protocol = Literal["fast", "paper"]
RANDOM = "random"
"""The name for random weights."""
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
"""A factor of about 3 between two. The largest leaves little but guesses, and the smallest hardly counts."""

# --- fields that read the same in every evaluation ------------------------------------------------------------------

NamedWeights = Annotated[
    str,
    arg(
        metavar="W",
        help="A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint, "
        "timm:NAME, timm:NAME@FILE or torchvision:NAME (published weights), hf://OWNER/NAME (the Hugging Face hub), or "
        "random (with --like RUN, or with --arch and --image-size).",
    ),
]
LABELLED = """Labelled images: one folder per class, or any other form with labels that moco pretrain quick --help
lists. Accuracy is measured on the test split, else the validation split, else a tenth of the training images."""
LabelledData = Annotated[str, arg(metavar="D", help=LABELLED)]
LikeRun = Annotated[
    Path | None, arg(help="For random weights: copy architecture, image size, mean and std from this run.")
]
RandomArch = Annotated[str | None, arg(help="For random weights: the backbone.")]
RandomStem = Annotated[Stem, arg(help="For random weights: first layers of a ResNet.")]
EncodedSide = Annotated[Side | None, arg(help="Side of the images in pixels; by default as in training.")]
EncodedAtOnce = Annotated[BatchSize, arg(help="Images encoded at a time.")]
OUTPUTS = """backbone: the backbone's features, whitened if training ended with whitening. plain: never whitened.
head: the projection head's output, of unit length."""
EncoderOutput = Annotated[Literal["backbone", "plain", "head"], arg(help=OUTPUTS)]
NoBaseline = Annotated[
    bool, FlagCreatePairsOff,
    arg(help="Skip the comparison with random weights of the same network and raw pixels.", help_behavior_hint=""),
]  # fmt: skip
OtherWeights = Annotated[
    tuple[str, ...], UseAppendAction,
    arg(name="baseline", metavar="W", help="Weights to compare with, at their own size and not whitened, or pixels."),
]  # fmt: skip
TUNED = "Also fine-tune these weights, at their own size; random: the same network, supervised from scratch."
TunedAlike = Annotated[tuple[str, ...], UseAppendAction, arg(name="baseline", metavar="W", help=TUNED)]
ExtraViews = Annotated[
    Annotated[int, Range(0, 1000)],
    arg(
        help="Random crops and flips of each training image that the linear classifier is fitted to, besides its "
        "centre (0: only the centre)."
    ),
]
PARTS = """Also fit the linear classifier to averages over 2x2 and 3x3 parts of each image, and keep the one that suits
held-out training images best."""
ReadParts = Annotated[bool, arg(help=PARTS)]
Penalties = Annotated[
    tuple[Positive, ...],
    arg(
        help="Penalties to choose from. The linear classifier minimises the mean cross-entropy plus half the penalty "
        "times the sum of the squared weights."
    ),
]


@dataclass(frozen=True)
class KnnConfig:
    """Classify images by the k nearest neighbours of their features, weighted by similarity (arXiv:1805.01978)."""

    weights: NamedWeights
    data: LabelledData
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"
    image_size: EncodedSide = None
    features: EncoderOutput = "backbone"
    whiten: bool = False
    """Whiten all features by the training images. A run that ended so needs this only to whiten --baseline W, too."""
    knn_k: KnnNeighbours = None
    knn_temperature: KnnTemperature = 0.1
    bank: Literal["fp32", "fp16"] = "fp32"
    """Number format of the voting features: 1.28 million of 2048 numbers take 10.5 GB in fp32, half of that in fp16."""
    baseline: NoBaseline = True
    baselines: OtherWeights = ()
    batch_size: EncodedAtOnce = 256
    seed: Seed = 0
    """Seed of random weights, also of the baseline."""
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class LinearConfig:
    """Train a linear classifier on frozen features, by a fast protocol or by that of the papers."""

    weights: NamedWeights
    data: LabelledData
    protocol: Protocol = "fast"
    """fast: encodes the images once and fits a regularised classifier to the features. paper: trains by SGD on random
    crops and flips, which go through the frozen backbone in every epoch (MoCo v1, section 4.1)."""
    penalties: Penalties = PENALTIES
    views: ExtraViews = 0
    parts: ReadParts = True
    epochs: Count = 100
    """Passes over the training images, with --protocol paper."""
    lr: Positive = 30.0
    """Learning rate of --protocol paper. It is multiplied by 0.1 after 60% and 80% of the epochs."""
    batch_size: BatchSize = 256
    """Images per step, over all processes."""
    baseline: NoBaseline = True
    baselines: OtherWeights = ()
    supervised_epochs: CountOrZero = 0
    """Also train the same network from random weights with all labels for this many epochs (0: do not)."""
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"
    image_size: EncodedSide = None
    seed: Seed = 0
    """Seed of random weights, of the classifier's initial weights, and of the order, crops and flips of the images."""
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class LowshotConfig:
    """Train a linear classifier, and fine-tune the whole network, on a few labelled images, drawn several times."""

    weights: NamedWeights
    data: LabelledData
    labels: str = "1%"
    """How many training images keep their label: a share of each class (1%, 10%), or a number for each class (5)."""
    draws: Repetitions = 3
    """Number of random draws; the result has their mean and standard deviation."""
    penalties: Penalties = PENALTIES
    views: ExtraViews = 0
    parts: ReadParts = True
    finetune_steps: CountOrZero = 400
    """Steps of fine-tuning for each draw (0: do not fine-tune)."""
    finetune_lr: Positive = 0.05
    """Highest learning rate of fine-tuning."""
    batch_size: BatchSize = 128
    """Images per step, over all processes; fewer if fewer are labelled."""
    baseline: NoBaseline = True
    baselines: OtherWeights = ()
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"
    image_size: EncodedSide = None
    seed: Seed = 0
    """Seed of the draws, of random weights, and of the order, crops and flips of the images."""
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class FinetuneConfig:
    """Train the whole network with a new classifier on labelled images."""

    weights: NamedWeights
    data: LabelledData
    epochs: Count = 20
    """Passes over the training images."""
    max_steps: Count | None = None
    """Length of the training in steps, instead of --epochs."""
    batch_size: BatchSize = 128
    """Images per step, over all processes."""
    base_lr: Positive = 0.1
    """Learning rate for a batch of 256. It grows in proportion to --batch-size, and falls to 0 along half a cosine."""
    weight_decay: WeightDecay = 5e-4
    warmup_epochs: WarmupEpochs = 1.0
    """Epochs over which the learning rate first rises to its full value, at most a tenth of the steps."""
    baselines: TunedAlike = ()
    save: Path | None = None
    """Also write the network to this .safetensors file, for moco.load_classifier; the new classifier is fc.*."""
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"
    image_size: EncodedSide = None
    seed: Seed = 0
    """Seed of random weights, of the classifier's initial weights, and of the order, crops and flips of the images."""
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class EmbedConfig:
    """Write the features of images to a file, with their labels and paths."""

    weights: NamedWeights
    data: Annotated[str, D]
    """Images, with labels or without, in any form that moco pretrain quick --help lists."""
    out: Path
    """File to write: NAME.npz with the arrays features, labels, paths, splits and classes; NAME.csv or NAME.parquet
    with one row per image; or NAME.npy with the features only, and NAME.index.csv beside it with one row per image."""
    add: bool = False
    """Add new images to the file without encoding the others again. Weights, settings and the images in the file must
    not have changed."""
    split: Literal["all", "train", "val", "test", "unlabeled"] = "all"
    """Split to encode."""
    features: Annotated[
        Literal["backbone", "plain", "head", "map"],
        arg(help=f"{OUTPUTS} map: the backbone's last feature map (channels, rows, columns)."),
    ] = "backbone"
    unit: bool = False
    """Scale the features to unit length, as kNN compares them."""
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"
    image_size: EncodedSide = None
    batch_size: EncodedAtOnce = 256
    seed: Seed = 0
    """Seed of random weights."""
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    most_pixels: MostPixels = None
    json: JsonOutput = False


GONE: dict[type, dict[str, str]] = {
    LinearConfig: {
        "--lrs": "the fast protocol has no learning rate; it chooses one of --penalties, and --lr is the papers'"
    },
    LowshotConfig: {
        "--lrs": "the linear classifier has no learning rate; it chooses one of --penalties",
        "--epochs": "the linear classifier is solved, and --finetune-steps is the length of fine-tuning",
    },
}
"""Flags that earlier versions had, each with what to use now."""

KeptConfig = KnnConfig | LinearConfig | LowshotConfig | FinetuneConfig
EvaluationConfig = KeptConfig | EmbedConfig
"""Any evaluation's settings; what they share has one name."""
REPEATED = ("baseline", "exclude")
"""Flags that are given once for each of their values."""
KEPT: dict[str, type[KeptConfig]] = {
    "knn": KnnConfig, "linear": LinearConfig, "lowshot": LowshotConfig, "finetune": FinetuneConfig,
}  # fmt: skip
"""The evaluations that store their results with a run, by their commands."""


def result_name(config: KeptConfig) -> str:
    """Return what the file is called that an evaluation leaves in a run's `evaluations/`, without its ending."""
    command = next(name for name, kind in KEPT.items() if isinstance(config, kind))
    if isinstance(config, LinearConfig):
        return f"{command}-{config.protocol}"
    return f"{command}-{read_label_share(config.labels).name}" if isinstance(config, LowshotConfig) else command
