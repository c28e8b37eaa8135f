"""`moco knn`: what its result holds beside the accuracy."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.cli import main
from moco.commands.pretrain import run as pretrain
from moco.data.catalog import load
from moco.pretraining.health import accuracy_gain
from moco.pretraining.recipes import recipe

CPU = ["--data", "digits", "--device", "cpu", "--threads", "1", "--json"]


def told(capsys: pytest.CaptureFixture[str], weights: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """The result, and what is said to people."""
    assert main(["knn", "--weights", str(weights), *flags, *CPU]) == 0
    out, said = capsys.readouterr()
    return json.loads(out), said


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def predicted(run: Path) -> Any:
    """The classes that the last evaluation of a run took the test images for."""
    return np.array(json.loads((run / "evaluations" / "knn.json").read_text())["predicted"])


def test_the_gain_over_random_weights_and_raw_pixels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A paired difference with its interval, printed and kept; it is narrower than that of two sets of images."""
    result, said = told(capsys, run)
    assert result["baselines"].keys() == {"random", "pixels"}
    for name, words in (("random", "random weights"), ("pixels", "raw pixels")):
        own = result["baselines"][name]
        assert own["difference"] == pytest.approx(result["top1"] - own["top1"], abs=2e-3)
        assert own["low"] < own["difference"] < own["high"]
        gain = f"{own['difference']:+.2f} points, 95% interval {own['low']:+.2f} to {own['high']:+.2f}"
        assert f"against {words}, {own['top1']:.2f}% (k {own['k']}): {gain}\n" in said
        _, low, high = accuracy_gain(result["top1"], own["top1"], result["queries"])
        assert own["high"] - own["low"] < high - low
    assert json.loads((run / "evaluations" / "knn.json").read_text())["baselines"] == result["baselines"]
    assert result["baselines"]["pixels"]["image_size"] == 16
    alone, _ = told(capsys, run, "--no-baseline", "--baseline", "random")
    assert list(alone["baselines"]) == ["random"]
    alone, _ = told(capsys, run, "--no-baseline", "--baseline", "pixels")
    assert alone["baselines"] == {"pixels": result["baselines"]["pixels"]}


def test_a_k_that_is_given_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the baselines too; one that is chosen says so."""
    chosen, said = told(capsys, run, "--features", "plain")
    assert chosen["k_chosen"] is True
    assert (
        f"% of 360 images of the test split, held out from training (k {chosen['k']}, chosen by leave-one-out; " in said
    )
    given, said = told(capsys, run, "--features", "plain", "--knn-k", "200")
    assert (given["k"], given["k_chosen"]) == (200, False)
    assert {own["k"] for own in given["baselines"].values()} == {200}
    assert "% of 360 images of the test split, held out from training (k 200; 1437 training images vote)" in said
    assert chosen["k"] < 200
    assert chosen["top1"] > given["top1"]  # of the digits' 180 images for each class


def test_other_weights_at_their_own_size(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each as a command of its own evaluates it, with the paired difference on the same images."""
    other = tmp_path / "other"
    values: dict[str, Any] = {"arch": "resnet10-w4", "mean": (0.1, 0.2, 0.3), "max_steps": 1, "batch_size": 32}
    pretrain(recipe("quick", data="digits", out=other, image_size=12, knn_every=0, device="cpu", threads=1, **values))
    capsys.readouterr()
    alone, _ = told(capsys, other, "--no-baseline")
    flags = ["--no-baseline", "--baseline", str(other), "--baseline", str(other)]
    result, said = told(capsys, run, *flags, "--baseline", str(run))
    assert list(result["baselines"]) == [str(other), str(run)]
    own, itself = result["baselines"].values()
    assert {name: own[name] for name in ("top1", "top5", "k", "weights")} == {
        **{name: alone[name] for name in ("top1", "top5", "k")}, "weights": str(other)
    }  # fmt: skip
    assert (own["image_size"], itself["image_size"]) == (12, 16)
    assert (itself["difference"], itself["low"], itself["high"]) == (0, 0, 0)
    assert f"against {other} at {own['image_size']} pixels, {own['top1']:.2f}%" in said
    truth = load("digits")["test"].labels
    ours, theirs = (100.0 * (predicted(folder) == truth) for folder in (run, other))
    reach = 1.96 * (ours - theirs).std() / 360**0.5
    assert own["difference"] == pytest.approx((ours - theirs).mean(), abs=1e-3)
    assert own["high"] - own["low"] == pytest.approx(2 * reach, rel=1e-3)


def test_random_weights_are_compared_with_raw_pixels_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are a baseline themselves."""
    assert main(["knn", "--weights", "random", "--like", str(run), *CPU]) == 0
    out, said = capsys.readouterr()
    assert json.loads(out)["baselines"].keys() == {"pixels"}
    assert "held out" not in said
