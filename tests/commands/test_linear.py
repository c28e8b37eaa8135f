"""`moco linear --protocol paper` says when its rate does not suit the features."""

from typing import Any

import pytest

from moco.cli import main
from moco.commands.linear import advise

FASTER = {"with": "fast", "difference": -5.0, "low": -8.0, "high": -2.0}
UNCLEAR = {**FASTER, "high": 0.5}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"lr": 30.0, "training_loss": 150.8}, "on the training images its loss is 150.8, where guessing has 2.303"),
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


@pytest.mark.parametrize(("rate", "lines"), [("10000", 1), ("0.1", 0)])
def test_the_command_gives_it(capsys: pytest.CaptureFixture[str], rate: str, lines: int) -> None:
    """In one line, and nothing where the classifier is better than guessing on what it was trained on."""
    arguments = ["--weights", "random", "--arch", "resnet18-w16", "--image-size", "16", "--protocol", "paper"]
    arguments += ["--epochs", "1", "--lr", rate, "--data", "digits", "--device", "cpu", "--precision", "fp32"]
    assert main(["linear", *arguments, "--threads", "1"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "does not suit" in line]
    assert len(said) == lines
