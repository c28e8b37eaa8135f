"""What lies beside an encoder's weights in our own files: its plan, and what its images look like."""

import dataclasses
from pathlib import Path
from typing import Any

from moco.core.encoder import EncoderPlan
from moco.data.decoding import WHITEST
from moco.errors import BadInputError
from moco.runtime.checkpoint import Metadata

LARGEST_COLOUR = 1e6


def encoder_metadata(
    plan: EncoderPlan, mean: tuple[float, ...], std: tuple[float, ...], step: int, white_level: int | None = None
) -> Metadata:
    """What is stored beside an encoder's weights."""
    images = {"mean": list(mean), "std": list(std), "white_level": white_level}
    return {"encoder": dataclasses.asdict(plan), **images, "step": step}


def read_metadata(path: Path, metadata: Metadata) -> tuple[EncoderPlan, dict[str, Any]]:
    """Return the plan, and mean, deviation, step and white level by the names of `Weights`.

    Raises BadInputError where one is missing, or no number that an encoder has.
    """
    try:
        plan = EncoderPlan(**metadata["encoder"])
        mean, std = _colours(metadata["mean"]), _colours(metadata["std"])
        if min(std) <= 0:
            raise ValueError(f"std {std}, expected numbers more than 0")
        step = metadata["step"]
        if type(step) is not int or not 0 <= step < 1 << 62:
            raise ValueError(f"step {str(step)[:20]}, expected a whole number of steps")
        level = metadata.get("white_level", WHITEST)  # files from before it was stored scale by the full range
        if level is not None and (type(level) is not int or not 0 < level <= WHITEST):
            raise ValueError(f"white_level {str(level)[:20]}, expected 1 to {WHITEST}")
    except (BadInputError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInputError(f"{path}: its metadata does not describe an encoder ({error})") from error
    return plan, {"mean": mean, "std": std, "step": step, "white_level": level}


def _colours(values: object) -> tuple[float, ...]:
    """A number for each of red, green and blue."""
    if not isinstance(values, list) or len(values) != 3 or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{values!r}, expected three numbers")
    if not all(abs(value) < LARGEST_COLOUR for value in values):  # false for nan too
        raise ValueError(f"{str(values)[:60]}, expected finite numbers")
    return tuple(float(value) for value in values)
