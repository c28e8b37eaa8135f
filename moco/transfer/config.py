"""The settings of `moco transfer`: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from moco.data.config import MostPixels, WhiteLevel
from moco.errors import BadInputError
from moco.evaluation.config import LikeRun, RandomArch, RandomStem
from moco.runtime.fields import (
    RUNS,
    AcceptChangedData,
    BatchSize,
    Count,
    CountOrZero,
    D,
    Device,
    Earlier,
    JsonOutput,
    LogEvery,
    Loggers,
    NotNegative,
    Positive,
    Precision,
    Range,
    Repetitions,
    RunFolder,
    Seed,
    SgdMomentum,
    Share,
    Side,
    Threads,
    Timeout,
    W,
    WeightDecay,
    Width,
    Workers,
    check,
    flag,
)

Scale = Annotated[float, Range(above=0, most=1000)]
"""A factor of a length."""
AnchorSize = Annotated[float, Range(above=0, most=2**14)]
"""In pixels."""
TRANSFER_GROUPS: dict[str, tuple[str, ...]] = {
    "Common": ("weights", "data", "out", "max_steps", "batch_size", "lr", "trials", "seed", "device", "workers",
               "json"),
    "Model and schedule": (),
    "Images": ("flip", "train_sizes", "test_size", "longest_side", "crop_size", "crop_scales", "white_level",
               "most_pixels", "accept_changed_data", "skip_empty", "repeat_threshold"),
    "Evaluation": ("detections", "score_threshold", "nms_threshold", "precise_bn", "evaluate_every", "test_images",
                   "voc_rule", "shown_images"),
    "Machine and logging": ("precision", "timeout", "threads", "log_every", "logger", "checkpoint_every"),
}  # fmt: skip
"""Title -> fields, in the order of --help-all; --help lists the first group. What no group names is in the second."""


@dataclass(frozen=True)
class TransferConfig:
    """Fine-tune an encoder for detection, segmentation or keypoints, and measure the result (arXiv:1911.05722, 4.2)."""

    task: tyro.conf.Suppress[tyro.conf.Fixed[str]]
    """The task, one of moco.transfer.recipes.TASKS."""
    weights: Annotated[str, W]
    """A run folder, a checkpoint, an encoder.safetensors, another project's checkpoint,
    torchvision:NAME (published weights of a ResNet), or random (with --like RUN or --arch)."""
    data: Annotated[str, D]
    """Images with boxes, masks, keypoints or labelled pixels, laid out as in COCO, VOC or Cityscapes (by task)."""
    out: RunFolder
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"

    max_steps: Count = 24000
    """Length of the run in steps; the schedule ends with it."""
    batch_size: BatchSize = 16
    """Images per step, over all processes."""
    lr: Positive = 0.02
    """Learning rate of SGD for the whole batch; reduce it in proportion to a smaller batch."""
    milestones: tuple[Share, ...] = (0.75, 11 / 12)
    """Shares of the run after which the learning rate falls; 0.75 of 24k steps are 18k."""
    lr_drops: tuple[CountOrZero, ...] | None = None
    """Steps after which the learning rate falls, instead of --milestones."""
    lr_decay: Positive = 0.1
    """Factor by which the learning rate falls there."""
    warmup_steps: CountOrZero = 100
    """Steps over which the learning rate first rises to its full value, at most a tenth of the run."""
    sgd_momentum: SgdMomentum = 0.9
    weight_decay: WeightDecay = 1e-4
    norm_weight_decay: NotNegative = 0.0
    """Weight decay of BN's scales and shifts; detectron2's detectors, and so the papers', have none."""
    frozen_stages: Annotated[int, Range(0, 4)] = 0
    """Stages of the ResNet that stay frozen, together with its stem; the papers train all (0)."""

    repeat_threshold: Share = 0.0
    """Detectors: an image comes sqrt(this / f) times in a pass, and at least once, where f is the share of images that
    show the rarest of its classes (LVIS, arXiv:1908.03195, takes 0.001; 0: once each)."""
    skip_empty: bool = False
    """Detectors: leave out training images without an object to learn from (keypoints: without an annotated one)."""
    flip: Share = 0.5
    """Share of the training images that are mirrored, with their annotations (0 where left and right matter)."""
    train_sizes: tuple[Side, Side] = (480, 800)
    """Detectors: smallest and largest value from which the shorter side of a training image is drawn, in pixels."""
    test_size: Side = 800
    """Detectors: shorter side of an image in evaluation, in pixels."""
    longest_side: Side = 1333
    """Detectors: most pixels of the longer side; images that would exceed it are scaled down."""
    crop_size: Side = 513
    """Segmentation networks: side of the squares that are cut from images for training, in pixels."""
    crop_scales: tuple[Scale, Scale] = (0.5, 2.0)
    """Segmentation networks: smallest and largest factor by which an image is scaled before that."""
    head_channels: Width = 256
    """Width of the new layers of FPN, mask head and segmentation head; the box head has four times as many channels."""
    head_dilation: Annotated[int, Range(1, 1024)] = 6
    """Segmentation networks: dilation of the head's 3x3 convolutions."""
    anchor_sizes: tuple[AnchorSize, ...] | None = None
    """Detectors: sides of the anchors in the resized image; by default 32 to 512 pixels at the recipe's --test-size,
    and in proportion to it."""
    anchor_ratios: tuple[Scale, ...] = (0.5, 1.0, 2.0)
    """Detectors: height over width of the anchors, each at every size."""
    regions: Count = 512
    """Detectors: regions of each image that the heads learn from in a step."""
    detections: Count = 100
    """Detectors: detections of an image that are kept, at most."""
    score_threshold: Share = 0.05
    """Detectors: lowest score of a detection that is kept."""
    nms_threshold: Share = 0.5
    """Detectors: where two detections of a class overlap by more than this (IoU), only the better one is kept."""

    precise_bn: CountOrZero = 200
    """Batches over which BN's statistics are computed anew before an evaluation (0: use the running ones)."""
    evaluate_every: CountOrZero = 0
    """Steps between two evaluations during the run (0: only at the end)."""
    test_images: Count | None = None
    """Test images to evaluate on, evenly spaced; by default all."""
    voc_rule: Literal["11-point", "area"] = "11-point"
    """VOC: how the precision-recall curve is summed up; 11-point is VOC 2007's, whose test set the papers use."""
    trials: Repetitions = 1
    """Repetitions, with seeds from --seed on; results are their mean and standard deviation."""

    seed: Seed = 0
    """Seed of everything random: new layers, order of the images, crops, flips, sampled regions."""
    precision: Annotated[Precision, Earlier("fp32")] = "auto"
    device: Device = "auto"
    timeout: Timeout = 600.0
    threads: Threads = None
    workers: Annotated[Workers, tyro.conf.arg(help="Processes that load images; by default one per core.")] = None
    log_every: LogEvery = 20
    logger: Loggers = ()
    checkpoint_every: CountOrZero = 1000
    """Steps between two checkpoints (0: only at the end)."""
    white_level: Annotated[WhiteLevel, Earlier(65535)] = None
    most_pixels: MostPixels = None
    accept_changed_data: AcceptChangedData = False
    shown_images: Annotated[int, Range(0, 1000)] = 6
    """Test images that are kept for the report, with what was found and what is true."""
    json: JsonOutput = False


@dataclass(frozen=True)
class CompareConfig:
    """Print the results of transfer runs side by side, as the papers' tables do."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], RUNS]
    """Run folders of moco transfer, in any order: random, supervised, pre-trained here."""
    json: JsonOutput = False


def check_transfer(config: TransferConfig) -> None:
    """Raise BadInputError naming the first flag whose value lies outside its range."""
    check(config)
    for name in ("train_sizes", "crop_scales"):
        low, high = getattr(config, name)
        if low > high:
            raise BadInputError(f"{flag(name)} is {low} {high}: expected the smaller one first")
    if not config.anchor_ratios:
        raise BadInputError("--anchor-ratios is empty: expected at least one, such as 1")
