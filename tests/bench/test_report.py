"""Ratios, the table and the warnings of the benchmark."""

from typing import Any

import pytest
from rich.console import Console

from moco.bench.report import caution, tabulate_figures
from tests.bench.test_verdict import found


def test_ratios() -> None:
    """Of the peak, of the step, and of the step of 32 images of ResNet-50 (3.2 s here)."""
    figures = found()
    assert figures["step"]["small"]["share_of_peak"] == 0.9
    assert figures["end-to-end"]["small"]["share_of_step"] == 0.97
    assert figures["dictionary"]["batch-32"]["share_of_step_by_65536_keys"] == 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine__load": 2.5}, "load 2.5 on 2 cores"),
        ({"end_to_end__small__images_per_second": 13.0}, "1.30 times as fast"),
    ],
    ids=["busy", "impossible"],
)
def test_figures_that_cannot_be_trusted_say_so(changes: dict[str, Any], message: str) -> None:
    """Where others computed before, or where a loop is faster than its own step."""
    assert message in (caution(found(**changes)) or "")


def test_figures_that_can_be_trusted_stand_alone() -> None:
    """Also where the system tells no load, and where nothing was compared."""
    assert caution(found()) is None
    assert caution({"machine": {"load": None, "cores": 2}}) is None


def test_the_table_shows_every_figure() -> None:
    """Each case is a line, with its memory."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(tabulate_figures(found()))
    text = captured.get()
    for part in ("100.00 GFLOP/s", "10.0 images/s", "90% of the peak", "97% of the step", "1234 views/s", "1000 MiB"):
        assert part in text
    assert "2.0 ms at 4096, 34.0 ms at 65536" in text
