"""The verdict names the narrowest place and what to change there."""

from typing import Any

import pytest

from moco.bench.report import add_ratios
from moco.bench.verdict import find_bottleneck


def found(**changes: Any) -> dict[str, Any]:
    """Made-up figures of a machine without fault: 90% of the peak, 97% of the step."""
    step = {"images_per_second": 10.0, "gflops": 90.0, "precision": "fp32", "peak_memory_mib": 1000}
    figures: dict[str, Any] = {
        "machine": {"processor": "P", "cores": 2, "torch": "2", "load": 0.2, "date": "today"},
        "peak": {
            "fp32": {"gflops": 100.0, "size": 1024, "peak_memory_mib": 300},
            "bf16": {"gflops": 1.0, "size": 256, "peak_memory_mib": 300},
        },
        "step": {"resnet50-224": dict(step), "small": dict(step)},
        "end-to-end": {
            case: {"images_per_second": 9.7, "workers": 0, "peak_memory_mib": 1100}
            for case in ("resnet50-224", "small")
        },
        "views": {"jpeg": {"views_per_second_per_core": 1234.0, "peak_memory_mib": 400}},
        "dictionary": {"batch-32": {"milliseconds": {"4096": 2.0, "65536": 34.0}, "peak_memory_mib": 400}},
    }
    for path, value in changes.items():
        *way, last = path.split("__")
        place = figures
        for name in way:
            place = place[name.replace("_", "-")]
        place[last] = value
    add_ratios(figures)
    return figures


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["the machine", "90%", "fp32"]),
        ({"end_to_end__small__images_per_second": 4.0}, ["loading", "small", "40%", "--workers 2"]),
        ({"end_to_end__small": {"images_per_second": 4.0, "workers": 2}}, ["loading", "another --workers", "now 2"]),
        ({"step__small__gflops": 30.0}, ["layers", "small", "30%", "--batch-size"]),
        ({"peak__bf16__gflops": 400.0}, ["precision", "4.0 times", "--precision bf16"]),
        ({"peak__fp16": {"gflops": 800.0, "size": 256}}, ["precision", "8.0 times", "--precision fp16"]),
        ({"dictionary__batch_32__milliseconds": {"4096": 2.0, "65536": 642.0}}, ["queue", "20%", "--queue-size"]),
        ({"end_to_end__small__images_per_second": 4.0, "step__small__gflops": 1.0}, ["loading"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_verdict_is_one_line_that_names_place_and_change(changes: dict[str, Any], parts: list[str]) -> None:
    """One fault each; with two, the one that must be mended first."""
    line = find_bottleneck(found(**changes))
    assert line.startswith("bottleneck: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_there_is_no_verdict_without_figures() -> None:
    """It says what it needs."""
    for only in ({}, {"peak": found()["peak"]}, {"views": found()["views"]}):
        assert "--only peak,step" in find_bottleneck(only)


def test_what_was_not_measured_is_not_judged() -> None:
    """A step without a peak has no share of it, and a loop without a step none of that."""
    figures = {name: found()[name] for name in ("machine", "step")} | {"end-to-end": {}}
    for row in figures["step"].values():
        row.pop("share_of_peak")
    add_ratios(figures)
    assert "share_of_peak" not in figures["step"]["small"]
    assert find_bottleneck(figures).startswith("no verdict")
