"""`moco knn`: what its result holds beside the accuracy."""

import json
import shutil
from pathlib import Path

import pytest

from moco.cli import main
from moco.pretraining.health import accuracy_gain


def test_the_gain_over_random_weights(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A paired difference with its interval, printed and kept; it is narrower than that of two sets of images."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    flags = ["--weights", str(run), "--data", "digits", "--device", "cpu", "--threads", "1", "--json"]
    assert main(["knn", *flags]) == 0
    out, said = capsys.readouterr()
    result = json.loads(out)
    random = result["baselines"]["random"]
    assert random["difference"] == pytest.approx(result["top1"] - random["top1"], abs=2e-3)
    assert random["low"] < random["difference"] < random["high"]
    assert f"({random['difference']:+.2f} points, 95% interval {random['low']:+.2f} to {random['high']:+.2f})" in said
    _, low, high = accuracy_gain(result["top1"], random["top1"], result["queries"])
    assert random["high"] - random["low"] < high - low
    assert json.loads((run / "evaluations" / "knn.json").read_text())["baselines"] == result["baselines"]
