"""The curves of a report."""

import math
from pathlib import Path
from typing import Any

import pytest

from moco.report.page import page
from moco.report.runs import read_run
from moco.report.training import KNN_NOTE
from tests.report.folders import Parsed, metrics, write_run


def test_what_a_curve_means_is_said_to_the_end(tmp_path: Path) -> None:
    """Only names are cut, however long the sentence below a curve is."""
    text = Parsed(page([read_run(write_run(tmp_path / "run"))], "")).text
    assert KNN_NOTE in " ".join(text.split())
    assert "\u2026" not in text


@pytest.mark.parametrize("loss", [1e9, -1e9, 10**400])
def test_a_loss_beyond_all_bounds(tmp_path: Path, loss: float) -> None:
    """Of a run that went wrong, or a file that someone else wrote: no figure is so large that it cannot be shown."""
    lines = [*metrics(), {"step": 100, "loss": loss, "chance_loss": abs(loss), "time": 1}]
    folder = write_run(tmp_path / "run", lines=lines)
    assert Parsed(page([read_run(folder)], "")).trouble == []


def test_the_chance_line_with_mixed_negatives(tmp_path: Path) -> None:
    """It is that of all that a query is compared with, and K is still that of the dictionary."""
    lines = [{**line, "chance_loss": math.log(1000 + 8 + 1)} for line in metrics()]
    mixed: dict[str, Any] = {"hard_negatives": 16, "mix": 5, "mix_query": 3, "dictionary": "queue", "queue_size": 1000}
    text = Parsed(page([read_run(write_run(tmp_path / "run", lines=lines, **mixed))], "")).text
    assert "chance: log(1009) = 6.92" in text
    assert "K+1" not in text
    assert "K = 1\u202f000 and 8 mixed" in text
