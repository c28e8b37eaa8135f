"""The settings of the evaluations: a field is a flag, its docstring the flag's help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moco.evaluation.few import few

Protocol = Literal["fast", "paper"]
RANDOM = "random"
"""The name of weights that are none."""
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Learning rates of the sweep: a factor of about 3 between two, the papers' 30 among them."""


@dataclass(frozen=True)
class KnnConfig:
    """Weighted k-nearest-neighbour classification by an encoder's features (InstDisc): how good are they?"""

    weights: str
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint (docs/interop.md), timm:NAME,
    timm:NAME@FILE or torchvision:NAME (published weights), or random (with --like RUN or --arch)."""
    data: str
    """Labelled images, as for pretrain. Queries are the test split, else validation, else a tenth of train."""
    like: Path | None = None
    """For random weights: the run whose architecture, image size, mean and std are taken."""
    arch: str | None = None
    """For random weights: the backbone."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """For random weights: first layers of a ResNet."""
    image_size: int | None = None
    """Side of the images in pixels; by default that of the training."""
    features: Literal["backbone", "head"] = "backbone"
    """Which output to compare: the backbone's pooled features, or the head's vectors."""
    knn_k: int = 200
    """Neighbours that vote."""
    knn_temperature: float = 0.1
    """Weight of a vote: exp(similarity / this)."""
    bank: Literal["fp32", "fp16"] = "fp32"
    """How features are kept in memory: 1.28 million of 2048 numbers are 10.5 GB in fp32, half of that in fp16."""
    baseline: bool = True
    """Also evaluate random weights of the same network."""
    batch_size: int = 256
    """Images encoded at a time."""
    seed: int = 0
    """Of random weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""


@dataclass(frozen=True)
class LinearConfig:
    """A linear classifier on the features of the frozen backbone, by the papers' protocol or a fast one."""

    weights: str
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint (docs/interop.md), timm:NAME,
    timm:NAME@FILE or torchvision:NAME (published weights), or random (with --like RUN or --arch)."""
    data: str
    """Labelled images, as for pretrain. Figures are of the test split, else validation, else a tenth of train."""
    protocol: Protocol = "fast"
    """paper: one epoch after another of random crops and flips through the frozen backbone (v1, 4.1). fast: features
    are encoded once, and classifiers for all of --lrs are trained on them at the same time."""
    epochs: int = 100
    """Passes over the training images (fast: over their features)."""
    lr: float = 30.0
    """Learning rate of --protocol paper. Multiplied by 0.1 after 60% and 80% of the epochs, in both protocols."""
    lrs: tuple[float, ...] = RATES
    """Learning rates of --protocol fast; the best on a held-out part of train is chosen."""
    views: int = 3
    """fast: encode this many random crops and flips of each training image; 0: its centre crop and that mirrored."""
    batch_size: int = 256
    """Images for one step, over all processes."""
    baseline: bool = True
    """Also evaluate random weights of the same network (by --protocol fast)."""
    supervised_epochs: int = 0
    """Also train the same network from random weights with all labels for this many epochs (0: do not)."""
    like: Path | None = None
    """For random weights: the run whose architecture, image size, mean and std are taken."""
    arch: str | None = None
    """For random weights: the backbone."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """For random weights: first layers of a ResNet."""
    image_size: int | None = None
    """Side of the images in pixels; by default that of the training."""
    seed: int = 0
    """Of random weights, of the classifier's first weights, and of the order, crops and flips of the images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""


@dataclass(frozen=True)
class LowshotConfig:
    """Few labels: a linear classifier on features, and the whole network fine-tuned, over several draws."""

    weights: str
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint (docs/interop.md), timm:NAME,
    timm:NAME@FILE or torchvision:NAME (published weights), or random (with --like RUN or --arch)."""
    data: str
    """Labelled images, as for pretrain. Figures are of the test split, else validation, else a tenth of train."""
    labels: str = "1%"
    """How many training images keep their label: a share of each class (1%, 10%), or a number for each class (5)."""
    draws: int = 3
    """How often they are drawn; mean and standard deviation are over these."""
    epochs: int = 100
    """Linear classifier: passes over the features."""
    lrs: tuple[float, ...] = RATES
    """Linear classifier: learning rates; the best is chosen by cross-validation within the labelled images."""
    views: int = 10
    """Linear classifier: random crops and flips of each image that are encoded; 0: centre crop and that mirrored."""
    finetune_steps: int = 400
    """Steps of fine-tuning for each draw (0: do not fine-tune)."""
    finetune_lr: float = 0.05
    """Learning rate of fine-tuning, at its highest."""
    batch_size: int = 128
    """Images for one step, over all processes; fewer where fewer are labelled."""
    baseline: bool = True
    """Also evaluate random weights of the same network: fine-tuned, these are supervised training from scratch."""
    like: Path | None = None
    """For random weights: the run whose architecture, image size, mean and std are taken."""
    arch: str | None = None
    """For random weights: the backbone."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """For random weights: first layers of a ResNet."""
    image_size: int | None = None
    """Side of the images in pixels; by default that of the training."""
    seed: int = 0
    """Of the draws, of random weights, and of the order, crops and flips of the images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Train the whole network with a new classifier on labelled images."""

    weights: str
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint (docs/interop.md), timm:NAME,
    timm:NAME@FILE or torchvision:NAME (published weights), or random (with --like RUN or --arch)."""
    data: str
    """Labelled images, as for pretrain. Figures are of the test split, else validation, else a tenth of train."""
    epochs: int = 20
    """Passes over the training images."""
    max_steps: int | None = None
    """Length of the training in steps, instead of --epochs."""
    batch_size: int = 128
    """Images for one step, over all processes."""
    base_lr: float = 0.1
    """Learning rate at a batch of 256; it grows in proportion to the batch, and falls to 0 by half a cosine."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    warmup_epochs: float = 1.0
    """Epochs over which the rate rises to its full value first, at most a tenth of the steps."""
    baseline: bool = False
    """Also train from random weights in the same way: supervised from scratch."""
    save: Path | None = None
    """Also write backbone (under its library's names) and classifier (fc.*) to this .safetensors."""
    like: Path | None = None
    """For random weights: the run whose architecture, image size, mean and std are taken."""
    arch: str | None = None
    """For random weights: the backbone."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """For random weights: first layers of a ResNet."""
    image_size: int | None = None
    """Side of the images in pixels; by default that of the training."""
    seed: int = 0
    """Of random weights, of the classifier's first weights, and of the order, crops and flips of the images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""


@dataclass(frozen=True)
class EmbedConfig:
    """Write the features of images to a file, with their labels and paths."""

    weights: str
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint (docs/interop.md), timm:NAME,
    timm:NAME@FILE or torchvision:NAME (published weights), or random (with --like RUN or --arch)."""
    data: str
    """Images, as for pretrain, with labels or without."""
    out: Path
    """The file to write: NAME.npz with the arrays features, labels, paths, splits and classes."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Which images."""
    features: Literal["backbone", "head"] = "backbone"
    """Which output: the backbone's pooled features, or the head's vectors (of unit length)."""
    unit: bool = False
    """Scale the features to unit length, as kNN compares them."""
    like: Path | None = None
    """For random weights: the run whose architecture, image size, mean and std are taken."""
    arch: str | None = None
    """For random weights: the backbone."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """For random weights: first layers of a ResNet."""
    image_size: int | None = None
    """Side of the images in pixels; by default that of the training."""
    batch_size: int = 256
    """Images encoded at a time."""
    seed: int = 0
    """Of random weights."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""


KeptConfig = KnnConfig | LinearConfig | LowshotConfig | FinetuneConfig
EvaluationConfig = KeptConfig | EmbedConfig
"""Any evaluation's settings; what they share has one name."""
KEPT: dict[str, type[KeptConfig]] = {
    "knn": KnnConfig, "linear": LinearConfig, "lowshot": LowshotConfig, "finetune": FinetuneConfig,
}  # fmt: skip
"""The evaluations whose results stay with a run, by their commands."""


def result_name(config: KeptConfig) -> str:
    """What the file is called that an evaluation leaves in a run's `evaluations/`, without its ending."""
    command = next(name for name, kind in KEPT.items() if isinstance(config, kind))
    if isinstance(config, LinearConfig):
        return f"{command}-{config.protocol}"
    return f"{command}-{few(config.labels).name}" if isinstance(config, LowshotConfig) else command
