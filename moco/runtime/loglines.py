"""The lines that a person reads while a run goes on, of at most 120 characters; `metrics.jsonl` has every figure."""

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

LONGEST = 120
"""Characters of a line."""
KEPT_BY = "judged_top1"
LOOK = {"knn_top1": "kNN accuracy", "knn_pixels": "raw pixels", KEPT_BY: "all monitored images"}
"""Percentages of a monitor, and their names; of its further figures a line has no room."""
RETRIEVAL = "retrieval"
"""A percentage, beside `retrieval_images`, of how many."""
UNLABELLED = {KEPT_BY: RETRIEVAL}
"""The same of a monitor without labels."""
FINISHED = ("loss", "knn_top1", "alignment", "uniformity", "mIoU", "AP", "AP50")
"""Figures that are named of a run that is finished already."""


def describe_step(step: int, steps: int, values: Mapping[str, float], left: float | None) -> str:
    """Describe the training up to `step`; `left` are the seconds that the rest will take, None where it is unknown."""
    return _join([f"step {step}/{steps}", *_describe_training(values, left)])


def describe_place(step: int, steps: int, left: float | None) -> str:
    """Describe how far the training is where its next figures are not due yet."""
    return _join([f"step {step}/{steps}", *_describe_left(left)])


def describe_bar(values: Mapping[str, float]) -> str:
    """Describe the training beside a progress bar, which says the step and the time by itself."""
    return "  ".join(_describe_training(values, None))


def describe_look(step: int, steps: int, values: Mapping[str, float]) -> str:
    """Describe what an evaluation in the middle of a run found."""
    names = LOOK if "knn_top1" in values else UNLABELLED
    named = [f"{name} {_percent(values[key])}" for key, name in names.items() if key in values]
    others = [f"{name} {_percent(value) if name == RETRIEVAL else _rounded(value)}"
              for name, value in values.items() if name != f"{RETRIEVAL}_images"]  # fmt: skip
    return _join([f"step {step}/{steps}", *(named or others)])


def describe_finished(values: Mapping[str, Any]) -> str:
    """Describe what a run that is finished has reached."""
    known = {name: values[name] for name in FINISHED if isinstance(values.get(name), float | int)}
    return ", ".join(
        f"{LOOK[name]} {_percent(value)}" if name in LOOK else f"{name} {value:.4g}" for name, value in known.items()
    )


def _describe_training(values: Mapping[str, float], left: float | None) -> Iterable[str]:
    if "epoch" in values:
        yield f"epoch {values['epoch']:.2f}"
    chance = f" (chance {values['chance_loss']:.2f})" if "chance_loss" in values else ""
    yield f"loss {values['loss']:.3f}{chance}"
    if "contrast_accuracy" in values:
        yield f"accuracy {_percent(values['contrast_accuracy'])}"
    if "images_per_second" in values:
        yield f"{_rounded(values['images_per_second'])} images/s"
    yield from _describe_left(left)
    if "waiting_for_data" in values:
        yield f"data wait {values['waiting_for_data']:.0f}%"


def _describe_left(left: float | None) -> Iterable[str]:
    if left is not None and math.isfinite(left):
        yield f"{timedelta(seconds=round(left))} left"


def _join(parts: Iterable[str]) -> str:
    """Join parts, of which the last are left out where the line would become too long."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > LONGEST:
            return line or part[:LONGEST]
        line = longer
    return line


def _percent(value: float) -> str:
    return f"{value:.1f}%"


def _rounded(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 100 else f"{value:.0f}"
