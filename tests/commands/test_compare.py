"""`moco transfer compare`: rows in the papers' order, differences and colours, the papers' own rows."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moco.commands.compare import paper_row, read, tabulate_task, with_differences
from moco.commands.compare import run as compare
from moco.transfer.config import CompareConfig
from moco.transfer.recipes import TASKS


def run(folder: Path, name: str, weights: str, **figures: Any) -> Path:
    """A finished run with these figures."""
    content = {"task": "voc-c4", "weights": weights, "step": 24000, "config": {}, **figures}
    (folder / name / "evaluations").mkdir(parents=True)
    (folder / name / "evaluations" / "transfer.json").write_text(json.dumps(content))
    return folder / name


def test_differences_are_to_the_supervised_weights_in_the_papers_colours(tmp_path: Path) -> None:
    """Green from half a point on, red below, plain between."""
    runs = (
        run(tmp_path, "ours", "runs/v2", AP50=81.5, AP=55.9, AP75=58.5, deviation={"AP": 0.2}),
        run(tmp_path, "random", "random", AP50=60.2, AP=33.8, AP75=33.1),
        run(tmp_path, "supervised", "torchvision:resnet50", AP50=81.3, AP=53.5, AP75=59.1),
    )
    found = compare(CompareConfig(runs))["tasks"]["voc-c4"]
    assert [row["kind"] for row in found] == ["random", "supervised", "moco"]
    assert found[2]["difference"] == pytest.approx({"AP50": 0.2, "AP": 2.4, "AP75": -0.6})
    console = Console(force_terminal=True, width=200, color_system="standard")
    with console.capture() as captured:
        console.print(tabulate_task("voc-c4", found))
    text = captured.get()
    assert "55.9 ± 0.2\x1b[32m (+2.4)" in text
    assert "\x1b[31m (-0.6)" in text
    assert "81.5 (+0.2)" in text
    assert "62.6" in text  # the paper's AP75


def test_without_supervised_weights_the_difference_is_to_random_ones(tmp_path: Path) -> None:
    """And says nothing of the random ones themselves."""
    rows = [read(run(tmp_path, "a", "random", AP=10.0)), read(run(tmp_path, "b", "runs/x", AP=12.5))]
    assert [row["difference"] for row in with_differences(rows)] == [{}, {"AP": 2.5}]


def test_runs_of_other_images_or_lengths_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have tables of their own, which say what differs; the differences are within each."""
    here, there = {"data": "VOCdevkit", "test_images": None}, {"data": "blood", "test_images": None}
    few = {**here, "test_images": 100}
    runs = [
        run(tmp_path, "a", "random", AP=10.0, config=here), run(tmp_path, "b", "runs/x", AP=12.5, config=here),
        run(tmp_path, "c", "runs/x", AP=30.0, config=there), run(tmp_path, "d", "runs/x", AP=17.0, config=few),
        run(tmp_path, "e", "random", AP=16.0, config=few), run(tmp_path, "f", "random", AP=3.0, config=here, step=5),
    ]  # fmt: skip
    rows = compare(CompareConfig(tuple(runs)))["tasks"]["voc-c4"]
    assert {Path(row["run"]).name: row["difference"] for row in rows} == {
        "a": {}, "b": {"AP": 2.5}, "c": {}, "d": {"AP": 1.0}, "e": {}, "f": {},
    }  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("not comparable with the others") == 4
    assert "24000 steps, --data blood" in text
    assert "--data VOCdevkit, --test-images 100" in text
    assert "5 steps, --data VOCdevkit" in text


def test_the_papers_figures() -> None:
    """FACTS: the 2x row at its length; what is recalled is marked; every row has a figure for each name."""
    assert paper_row("coco-c4", "moco", 180_000) == {"box_AP": "40.7", "mask_AP": "35.4"}
    assert paper_row("coco-fpn", "moco", 90_000) == {"box_AP": "38.5", "mask_AP": "35.1*"}
    assert paper_row("coco-c4", "random", 90_000) == {}
    assert paper_row("coco-keypoints", "moco", 180_000) == {"keypoint_AP": "66.8"}  # one row, whatever the schedule
    assert paper_row("lvis-fpn", "supervised", 180_000) == {"mask_AP": "24.4"}
    assert all(len(row.split()) == len(task.figures) for task in TASKS.values() for row in task.paper.values())


def test_the_settings_of_the_papers() -> None:
    """FACTS: batch 16, lr 0.02, 24k steps, drops at 18k and 22k, warm-up 100; COCO 2x; FCN's rate, crop and drops."""
    from moco.transfer.models import build_transfer_schedule
    from moco.transfer.recipes import transfer_config

    def rates(task: str, **more: Any) -> list[int]:
        config = transfer_config(task, weights="random", data="x", out=Path("y"), **more)
        schedule = build_transfer_schedule(config)
        steps = pairwise(schedule(step) for step in range(1000, config.max_steps))
        return [step for step, (before, after) in enumerate(steps, 1001) if after < 0.9 * before]

    assert rates("voc-c4") == [18_000, 22_000]
    assert rates("coco-fpn") == [60_000, 80_000]
    assert rates("coco-fpn", max_steps=180_000) == [120_000, 160_000]
    assert rates("voc-semantic") == [21_000, 27_000]
    assert rates("voc-c4", lr_drops=(2000, 3000)) == [2000, 3000]
    voc = transfer_config("voc-c4", weights="random", data="x", out=Path("y"))
    assert (voc.batch_size, voc.lr, voc.warmup_steps, voc.train_sizes, voc.test_size) == (
        16,
        0.02,
        100,
        (480, 800),
        800,
    )
    assert TASKS["coco-fpn"].values["train_sizes"] == (640, 800)
    crops = [TASKS[f"{name}-semantic"].values.get("crop_size", voc.crop_size) for name in ("voc", "cityscapes")]
    assert crops == [513, 769]
    assert [TASKS[f"{name}-semantic"].values["lr"] for name in ("voc", "cityscapes")] == [0.003, 0.01]
