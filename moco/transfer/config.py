"""The settings of `moco transfer`: a field is a flag, its docstring the flag's help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from moco.errors import BadInputError
from moco.runtime.fields import check, flag


@dataclass(frozen=True)
class TransferConfig:
    """Fine-tune an encoder for detection, segmentation or keypoints, and measure what that reaches (v1, 4.2)."""

    task: tyro.conf.Suppress[tyro.conf.Fixed[str]]
    """What is learned, by which model: one of moco.transfer.recipes.TASKS."""
    weights: str
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint (docs/interop.md),
    torchvision:NAME (published weights of a ResNet), or random (with --like RUN or --arch)."""
    data: str
    """Images with boxes, masks, keypoints or labelled pixels, in the layout of the task (docs/transfer-data.md)."""
    out: Path
    """Run folder. A run of the same config that is already there goes on, or is left alone if it is finished."""
    like: Path | None = None
    """For random weights: the run whose architecture, mean and std are taken."""
    arch: str | None = None
    """For random weights: the backbone."""
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """For random weights: first layers of a ResNet."""

    max_steps: int = 24000
    """Length of the run in steps; the schedule ends with it."""
    batch_size: int = 16
    """Images for one step, over all processes."""
    lr: float = 0.02
    """Learning rate of SGD, for the whole batch: with a smaller batch give one as much smaller."""
    milestones: tuple[float, ...] = (0.75, 11 / 12)
    """Shares of the run after which the rate is lowered: 18k and 22k of 24k."""
    lr_drops: tuple[int, ...] | None = None
    """The same in steps, instead of --milestones."""
    lr_decay: float = 0.1
    """What it is multiplied by there."""
    warmup_steps: int = 100
    """Steps over which the rate rises to its full value first, at most a tenth of them all."""
    sgd_momentum: float = 0.9
    """Momentum of SGD (not m)."""
    weight_decay: float = 1e-4
    """Weight decay of SGD."""
    norm_weight_decay: float = 0.0
    """The same of BN's scales and shifts; detectron2's detectors, and so the papers', have none there."""
    frozen_stages: int = 0
    """Stages of the ResNet behind its stem that stay as they are, and the stem with them; the papers train all (0)."""

    repeat_threshold: float = 0.0
    """Detectors: images come sqrt(this / f) times in a pass, f being the share of images that show the rarest of their
    classes, but once at least (LVIS, arXiv:1908.03195, takes 0.001; 0: once each)."""
    skip_empty: bool = False
    """Detectors: leave out training images without an object to learn from (keypoints: without an annotated one)."""
    flip: float = 0.5
    """Share of the training images that are mirrored left and right, with all that is known of them (0: none, for
    images that show writing or sides)."""
    train_sizes: tuple[int, int] = (480, 800)
    """Detectors: the shorter side of a training image is drawn between these."""
    test_size: int = 800
    """Detectors: the shorter side of an image in evaluation."""
    longest_side: int = 1333
    """Detectors: images whose longer side would exceed this become as much smaller."""
    crop_size: int = 513
    """Segmentation nets: side of the squares that are cut from images for training."""
    crop_scales: tuple[float, float] = (0.5, 2.0)
    """Segmentation nets: an image is scaled by a factor drawn between these first."""
    head_channels: int = 256
    """Width of the new layers: of FPN, mask head and segmentation head; the box head has four times as many."""
    head_dilation: int = 6
    """Segmentation nets: dilation of the head's 3x3 convolutions."""
    anchor_sizes: tuple[float, ...] | None = None
    """Detectors: sides of the anchors in the resized image; by default 32 to 512 pixels at the recipe's --test-size,
    and in proportion."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Detectors: height over width of the anchors, each at every size."""
    regions: int = 512
    """Detectors: regions of an image that the heads learn from in a step."""
    detections: int = 100
    """Detectors: the most that are kept of an image."""
    score_threshold: float = 0.05
    """Detectors: what scores less is not kept."""
    nms_threshold: float = 0.5
    """Detectors: of two detections of a class whose boxes overlap (IoU) by more only the better one is kept."""

    precise_bn: int = 200
    """Batches over which BN's statistics are taken anew before an evaluation (0: the running ones)."""
    evaluate_every: int = 0
    """Steps between two evaluations in the run (0: only at the end)."""
    test_images: int | None = None
    """How many test images evaluations look at, evenly chosen; by default all."""
    voc_rule: Literal["11-point", "area"] = "11-point"
    """VOC: how the precision-recall curve is summed up; 11-point is VOC 2007's, whose test set the papers use."""
    trials: int = 1
    """How often it is done, with seeds from --seed on; mean and standard deviation are over these."""

    seed: int = 0
    """Of everything random: new layers, order of the images, crops, flips, sampled regions."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of convolutions and matrix products; auto is bf16 where the hardware has it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    timeout: float = 600.0
    """Seconds that a process waits for the others before it gives up and names the one that stalls."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    workers: int | None = None
    """Processes that load images; by default one per core."""
    log_every: int = 20
    """Steps between two lines of metrics (0: never)."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints (0: only at the end)."""
    accept_changed_data: bool = False
    """Go on with a run though images or annotations were added, removed or changed since it began."""
    shown_images: int = 6
    """Test images that are kept, with what was found and what is true, for the report."""
    json: bool = False
    """End with one JSON object on standard output."""


@dataclass(frozen=True)
class CompareConfig:
    """Print what transfer runs reached side by side, as the papers' tables do."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of moco transfer: random, supervised, pre-trained here, in any order."""
    json: bool = False
    """End with one JSON object on standard output."""


def check_transfer(config: TransferConfig) -> None:
    """Raise BadInputError naming the first flag whose value lies outside its range."""
    check(config)
    for name in ("train_sizes", "crop_scales"):
        low, high = getattr(config, name)
        if low > high:
            raise BadInputError(f"{flag(name)} is {low} {high}: expected the smaller one first")
    if not config.anchor_ratios:
        raise BadInputError("--anchor-ratios is empty: expected at least one, such as 1")
    if config.frozen_stages > 4:
        raise BadInputError(f"--frozen-stages is {config.frozen_stages}: a ResNet has 4 stages behind its stem")
