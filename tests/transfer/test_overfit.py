"""Every detector and segmenter learns eight images by heart, through the whole command: AP 0 is not working."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from moco.commands.transfer import run as transfer
from moco.transfer.recipes import TASKS, transfer_config
from tests.transfer.scenes import write

pytestmark = [pytest.mark.slow, pytest.mark.long]
SMALL: dict[str, Any] = {
    "weights": "random", "arch": "resnet18-w16", "max_steps": 150, "batch_size": 4, "lr": 0.05, "device": "cpu",
    "train_sizes": (64, 64), "test_size": 64, "longest_side": 96, "crop_size": 64, "crop_scales": (0.8, 1.2),
    "head_channels": 32, "regions": 32, "precise_bn": 8, "threads": 1, "workers": 0,
}  # fmt: skip
FASTER: dict[str, dict[str, Any]] = {
    "voc-c4": {"max_steps": 100, "regions": 16}, "coco-c4": {"max_steps": 100, "regions": 16},
    "coco-keypoints": {"lr": 0.02, "max_steps": 350},
    "cityscapes-instance": {"anchor_sizes": (2.56, 5.12, 10.24, 20.48, 40.96)},  # COCO's; its own are for larger images
}  # fmt: skip
"""What some tasks need less, or more carefully."""
MEASURED = {"voc": "AP50", "coco": "box_AP50", "coco-keypoints": "keypoint_AP50", "lvis": "box_AP50"}
"""What must pass 30, by the layout of the data."""


@pytest.mark.parametrize("task", TASKS)
def test_eight_images_are_learned_by_heart(tmp_path: Path, task: str) -> None:
    """To AP50 above 30, or a mean IoU as high; masks too where there are."""
    layout = TASKS[task].layout
    data = write(layout, tmp_path / "data", 8, (96, 64))
    transfer(transfer_config(task, **{**SMALL, **FASTER.get(task, {}), "data": str(data), "out": tmp_path / "run"}))
    assert_learned(tmp_path / "run", task)


def test_eight_photographs_of_blood_cells_are_learned_by_heart(tmp_path: Path) -> None:
    """BCCD's first eight, as training and as test images."""
    source = Path(os.environ.get("MOCO_DATA", "")) / "bccd"
    if not source.is_dir():
        pytest.skip("BCCD is not in $MOCO_DATA")
    names = sorted(path.stem for path in (source / "Annotations").glob("*.xml"))[:8]
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / folder).symlink_to(source / folder)
    lists = tmp_path / "data" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split in ("trainval", "test"):
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    settings = {**SMALL, "train_sizes": (120, 120), "test_size": 120, "longest_side": 160, "regions": 64}
    transfer(transfer_config("voc-dc5", **{**settings, "data": str(tmp_path / "data"), "out": tmp_path / "run"}))
    assert_learned(tmp_path / "run", "voc-dc5")


def assert_learned(run: Path, task: str) -> None:
    """The figures that a run left pass 30."""
    figures = json.loads((run / "evaluations" / "transfer.json").read_text())["figures"]
    name = MEASURED.get(TASKS[task].layout, TASKS[task].figures[0] + ("50" if "instance" in task else ""))
    assert figures[name] > 30, figures
    if "mask_AP50" in figures:
        assert figures["mask_AP50"] > 25, figures
