"""`moco linear --protocol paper` says when its rate does not suit the features."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from moco.cli import main
from moco.commands.linear import advise
from moco.errors import BadInputError

FASTER = {"with": "fast", "difference": -5.0, "low": -8.0, "high": -2.0}
UNCLEAR = {**FASTER, "high": 0.5}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"lr": 30.0, "training_loss": 150.8}, "its loss on the training images is 150.8, and guessing gives 2.303"),
        ({"lr": 30.0, "training_loss": 2.0}, None),
        ({"lr": 0.1, "training_loss": 1.5, "agreement": FASTER}, None),  # crops may cost so much
        ({"lr": 0.001, "training_loss": 2.2, "agreement": FASTER}, "the fast protocol is 5.00 points better"),
        ({"lr": 0.001, "training_loss": 2.2, "agreement": UNCLEAR}, None),
    ],
)
def test_advice(found: dict[str, Any], expected: str | None) -> None:
    """It names the rate, the evidence and a rate to try, and is silent without evidence."""
    said = advise({"suiting_lr": 0.1, **found}, 10)
    if expected is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(f"lr {found['lr']:g} does not suit these features: ")
        assert expected in said
        assert said.endswith("; try --lr 0.1")


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(("rate", "lines"), [("10000", 1), ("0.1", 0)])
def test_the_command_gives_it(capsys: pytest.CaptureFixture[str], rate: str, lines: int) -> None:
    """In one line, and nothing where the classifier is better than guessing on what it was trained on."""
    arguments = ["--weights", "random", "--arch", "resnet10-w4", "--image-size", "16", "--protocol", "paper"]
    arguments += ["--epochs", "1", "--batch-size", "96", "--lr", rate, "--data", "digits", "--precision", "fp32"]
    assert main(["linear", *arguments, "--device", "cpu", "--threads", "1", "--penalties", "0.1", "0.01"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if "does not suit" in line]) == lines
    (beside,) = [line for line in out if "against raw pixels" in line]
    assert "(by the fast protocol, penalty " in beside


def test_other_weights_at_their_own_size(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a command of its own evaluates them; the subject is brought to another size."""
    flags = ["--data", "digits", "--device", "cpu", "--threads", "1", "--no-baseline", "--penalties", "0.1", "--json"]
    weights = str(tiny_run / "encoder.safetensors")
    assert main(["linear", "--weights", weights, *flags]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main(["linear", "--weights", weights, "--image-size", "8", "--baseline", weights, *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["baselines"].keys() == {weights}
    own = result["baselines"][weights]
    assert (own["top1"], own["image_size"], own["weights"]) == (alone["top1"], 16, weights)
    assert own["difference"] == pytest.approx(result["top1"] - own["top1"], abs=2e-3)
    assert own["low"] < own["difference"] < own["high"]


def test_the_result_is_kept_where_a_baseline_fails(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's own figures stay with the run."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    failing = Mock(side_effect=BadInputError("gone"))
    monkeypatch.setattr("moco.commands.linear.measure_baselines", failing)
    flags = ["--data", "digits", "--device", "cpu", "--precision", "fp32", "--threads", "1", "--penalties", "0.1"]
    assert main(["linear", "--weights", str(copy), *flags]) == 2
    kept = json.loads((copy / "evaluations" / "linear-fast.json").read_text())
    assert kept["top1"] > 0
    assert kept["baselines"] == {}
