"""The papers' transfer tasks: model, data layout, settings, and what the papers reached."""

from dataclasses import dataclass, field
from typing import Any, Literal

from moco.transfer.config import TransferConfig

Layout = Literal["voc", "voc-semantic", "coco", "coco-keypoints", "lvis", "cityscapes-instance", "cityscapes-semantic"]
COCO = {
    "max_steps": 90_000, "milestones": (2 / 3, 8 / 9), "warmup_steps": 1000, "train_sizes": (640, 800),
    "skip_empty": True,
}  # fmt: skip
"""The 1x schedule: lower rates from 60k and 80k of 90k steps on. 2x is --max-steps 180000: 120k and 160k."""
FCN = {
    "max_steps": 30_000, "milestones": (0.7, 0.9), "warmup_steps": 0, "lr": 0.003, "precise_bn": 0,
    "norm_weight_decay": 1e-4,
}  # fmt: skip
CITYSCAPES = {
    **COCO, "max_steps": 24_000, "milestones": (0.75,), "lr": 0.01, "batch_size": 8, "train_sizes": (800, 1024),
    "test_size": 1024, "longest_side": 2048, "skip_empty": False,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is learned and by what: the model's features and heads, the layout of the data, and the settings."""

    about: str
    layout: Layout
    features: Literal["c4", "dc5", "fpn", "fcn"]
    heads: Literal["box", "mask", "keypoints", "pixels"]
    values: dict[str, Any]
    figures: tuple[str, ...]
    """The names of the figures, in the papers' order."""
    paper: dict[str, str] = field(default_factory=dict)
    """The papers' figures of ResNet-50 in their order, by the weights: `random`, `supervised`, `moco` (IN-1M); those
    of `moco 2x` and its kind at the longer schedule. What ends in * was recalled, and not checked against the text."""


AP = ("AP50", "AP", "AP75")
BOX_AND_MASK = ("box_AP", "mask_AP")
TASKS = {
    "voc-c4": Task(
        "Faster R-CNN R50-C4, VOC 07+12, 24k steps (v1, Table 2b)", "voc", "c4", "box", {}, AP,
        {"random": "60.2 33.8 33.1", "supervised": "81.3 53.5 58.8", "moco": "81.5 55.9 62.6"},
    ),
    "voc-dc5": Task(
        "Faster R-CNN R50-dilated-C5, VOC 07+12, 24k steps (v1, Table 2a)", "voc", "dc5", "box", {}, AP,
        {"random": "64.4* 37.9* 38.6*", "supervised": "81.4* 54.0* 59.1*", "moco": "81.1* 54.6* 59.9*"},
    ),
    "coco-fpn": Task(
        "Mask R-CNN R50-FPN, COCO, 90k steps; the 2x schedule is --max-steps 180000 (v1, Table 5)",
        "coco", "fpn", "mask", COCO, BOX_AND_MASK,
        {"random": "31.0* 28.5*", "supervised": "38.9 35.4*", "moco": "38.5 35.1*",
         "random 2x": "36.7 33.7", "supervised 2x": "40.6 36.8", "moco 2x": "40.8 36.9"},
    ),
    "coco-c4": Task(
        "Mask R-CNN R50-C4, COCO, 90k steps; the 2x schedule is --max-steps 180000 (v1, Table 5)",
        "coco", "c4", "mask", COCO, BOX_AND_MASK,
        {"supervised": "38.2 33.3", "moco": "38.5 33.6",
         "random 2x": "35.6 31.4", "supervised 2x": "40.0 34.7", "moco 2x": "40.7 35.4"},
    ),
    "coco-keypoints": Task(
        "Keypoint R-CNN R50-FPN, COCO persons (v1, Table 6)", "coco-keypoints", "fpn", "keypoints", COCO,
        ("keypoint_AP",), {"supervised": "65.8", "moco": "66.8"},
    ),
    "lvis-fpn": Task(
        "Mask R-CNN R50-FPN, LVIS (v1, Table 6)", "lvis", "fpn", "mask",
        {**COCO, "detections": 300, "score_threshold": 1e-4, "repeat_threshold": 1e-3}, ("mask_AP",),
        {"supervised": "24.4", "moco": "24.1"},
    ),
    "cityscapes-instance": Task(
        "Mask R-CNN R50-FPN, Cityscapes (v1, Table 6)", "cityscapes-instance", "fpn", "mask", CITYSCAPES, ("mask_AP",),
    ),
    "cityscapes-semantic": Task(
        "FCN of R50, Cityscapes, 90k steps (v1, Table 6)", "cityscapes-semantic", "fcn", "pixels",
        {**FCN, "max_steps": 90_000, "lr": 0.01, "crop_size": 769}, ("mIoU",), {"supervised": "74.6", "moco": "75.3"},
    ),
    "voc-semantic": Task(
        "FCN of R50, VOC, 30k steps (v1, Table 6)", "voc-semantic", "fcn", "pixels", FCN, ("mIoU",),
        {"supervised": "74.4", "moco": "72.5"},
    ),
}  # fmt: skip


def transfer_config(task: str, **given: Any) -> TransferConfig:
    """Return the config of a task, with some of its values given: `transfer_config("voc-c4", weights="run", ...)`."""
    return TransferConfig(**{"task": task, **TASKS[task].values, **given})
