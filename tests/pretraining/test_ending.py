"""The end of a run says what was reached, against what, where the encoder is and what to do next."""

from pathlib import Path
from typing import Any

import pytest

from moco.pretraining.ending import describe_reached

RESULT: dict[str, Any] = {
    "step": 195, "seconds": 61.2, "loss": 3.2, "chance_loss": 4.85, "findings": [], "knn_top1": 62.0,
    "knn_queries": 1000.0, "knn_trained_on": 0.0, "knn_pixels": 61.0, "before": {"knn_top1": 30.0},
}  # fmt: skip
REACHED = "  kNN accuracy: 62.0% of 1000 images"
NEXT = [
    "the encoder is runs/a/encoder.safetensors. Next:", "  moco report runs/a",
    "  moco linear --weights runs/a --data photos", "  moco explore runs/a --data photos",
]  # fmt: skip


def end(**changed: Any) -> list[str]:
    """The lines of a run with labels."""
    result = {name: value for name, value in {**RESULT, **changed}.items() if value is not None}
    return describe_reached(result, Path("runs/a"), "photos", labelled=True)


def test_a_run_with_labels() -> None:
    """Its accuracy stands beside the start and raw pixels, each with the interval and what that means."""
    done, reached, *beside = end()
    assert done == "done: 195 steps in 0:01:01"
    assert reached == REACHED
    assert beside == [
        "    before training: 30.0% (+32.0 points, 95% interval +27.8 to +36.1: better)",
        "    raw pixels: 61.0% (+1.0 points, 95% interval -3.3 to +5.3: not clearly different)", *NEXT,
    ]  # fmt: skip
    assert end(knn_top1=20.0)[2].endswith(": worse)")
    plain = "  kNN accuracy before whitening (moco knn measures the whitened encoder): 62.0% of 1000 images"
    assert end(whitened={"images": 400})[1] == plain
    assert end(knn_trained_on=100.0)[1].endswith("1000 images, which it was trained on")


@pytest.mark.parametrize("figures", [("before", "knn_pixels"), ("knn_top1", "knn_queries", "before")])
def test_what_was_not_measured_is_left_out(figures: tuple[str, ...]) -> None:
    """A run that was resumed from a log without its start; one without labels, which has its loss alone."""
    lines = end(**dict.fromkeys(figures))
    reached = "  loss 3.20, where guessing gives 4.85" if "knn_top1" in figures else REACHED
    assert lines == ["done: 195 steps in 0:01:01", reached, *NEXT]


def test_what_is_wrong_is_said_last_and_an_encoder_that_is_kept_is_the_one_that_counts() -> None:
    """With --keep best the last look is not what the run ends with."""
    kept = {"step": 10, "top1": 70.0, "first_top1": 70.0, "last_top1": 62.0, "images": 100}
    lines = end(kept=kept, findings=["short", "chance"])
    assert lines[1] == "  accuracy of the encoder that is kept: 70.0% of 100 images"
    assert "not clearly different" in lines[2]
    assert lines[3] == "  but it is too short and its loss is at chance (see health above)"
    three = end(findings=["few", "short", "chance"])[4]
    assert three == "  but its images are too few, it is too short and its loss is at chance (see health above)"
