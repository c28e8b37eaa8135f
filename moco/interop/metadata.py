"""What lies beside an encoder's weights in our own files: its plan, and what its images look like."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from moco.core.encoder import EncoderPlan
from moco.core.joined import read_parts
from moco.core.networks import reads_bytes
from moco.data.decoding import WHITEST
from moco.data.forms import Form
from moco.errors import BadInputError
from moco.runtime.checkpoint import Metadata

LARGEST_COLOUR = 1e6
CLASSIFIER = "classifier"
"""The kind of a file of `moco finetune --save`."""
DOCUMENTS = "documents"
"""What an encoder of bytes takes."""
RGB_BYTES = "bytes of RGB"
"""What most encoders take."""


def encoder_metadata(
    plan: EncoderPlan, mean: tuple[float, ...], std: tuple[float, ...], step: int, white_level: int | None = None,
    form: Form | None = None,
) -> Metadata:  # fmt: skip
    """Build the metadata of an encoder's weights; for RGB bytes it says nothing about channels."""
    images: Metadata = {"mean": list(mean), "std": list(std), "white_level": white_level}
    encoder = dataclasses.asdict(plan)
    if not plan.parts:
        del encoder["parts"]
    if form is None:
        del encoder["channels"]
    else:
        images["images"] = {"depth": form.depth, "bands": list(form.bands), "no_data": form.no_data}
    return {"encoder": encoder, **images, "step": step}


def read_metadata(path: Path, metadata: Metadata) -> tuple[EncoderPlan, dict[str, Any]]:
    """Return the plan, and mean, deviation, step, white level and form by the names of `Weights`.

    Raises BadInputError where one is missing, or no number that an encoder has.
    """
    try:
        settings = metadata["encoder"]
        plan = EncoderPlan(**{**settings, "parts": read_parts(settings.get("parts", []))})
        deep = metadata.get("images")
        mean, std = (_colours(metadata[name], plan.channels, deep is not None) for name in ("mean", "std"))
        if min(std) <= 0:
            raise ValueError(f"std {std}, expected numbers more than 0")
        step = metadata["step"]
        if type(step) is not int or not 0 <= step < 1 << 62:
            raise ValueError(f"step {str(step)[:20]}, expected a whole number of steps")
        level = metadata.get("white_level", WHITEST)  # files from before it was stored scale by the full range
        if level is not None and (type(level) is not int or not 0 < level <= WHITEST):
            raise ValueError(f"white_level {str(level)[:20]}, expected 1 to {WHITEST}")
        form = None if deep is None else _read_form(deep, plan.channels, mean, std)
    except (BadInputError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInputError(f"{path}: its metadata does not describe an encoder ({error})") from error
    return plan, {"mean": mean, "std": std, "step": step, "white_level": None if form else level, "form": form}


def _read_form(values: object, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Form:
    if not isinstance(values, dict) or not isinstance(bands := values.get("bands"), list):
        raise ValueError(f"images {str(values)[:60]}, expected depth, bands and no_data")
    return Form(channels, values["depth"], mean, std, tuple(bands), values.get("no_data"))


def _colours(values: object, channels: int, deep: bool) -> tuple[float, ...]:
    """A number for each of red, green and blue, or for each channel."""
    known = isinstance(values, list) and len(values) == channels and (deep or channels == 3)
    if not isinstance(values, list) or not known or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{str(values)[:60]}, expected {channels if deep else 3} numbers")
    if not all(abs(value) < (math.inf if deep else LARGEST_COLOUR) for value in values):  # false for nan too
        raise ValueError(f"{str(values)[:60]}, expected finite numbers")
    return tuple(float(value) for value in values)


def describe_input(plan: EncoderPlan, form: Form | None) -> str:
    """Describe in words what an encoder takes: documents, bytes of RGB, or other channels."""
    if reads_bytes(plan.arch):
        return DOCUMENTS
    return RGB_BYTES if form is None else form.kind
