"""The form of images that are not RGB bytes: their channels, number type, and the value for missing data."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from moco.errors import BadInputError, counted, quote
from moco.shapes import Channels, Image

MOST_CHANNELS = 64
AUTO, RGB = "auto", "rgb"
"""Values of `--channels`: as the files are; and bytes of RGB, whatever they are."""
DEPTHS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float")
"""The kinds of numbers that are read; all become 32-bit floating point, which holds whole numbers up to 2^24."""
SHOWN = 2.0
"""Standard deviations below and above a channel's mean that are shown as black and as full brightness."""

Depth = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float"]


@dataclass(frozen=True)
class Form:
    """Images with N channels at full depth: float32 (channels, H, W) in the files' own units."""

    channels: int
    depth: Depth
    mean: tuple[float, ...]
    """The mean of each channel; a missing value becomes its channel's mean."""
    std: tuple[float, ...]
    bands: tuple[str, ...] = ()
    """Endings of the files of one image, one per channel; empty if an image is one file."""
    no_data: str | None = None
    """The no-data value, such as "-9999" or "nan"."""
    shown: tuple[int, ...] = ()
    """The channels that people see as red, green and blue, or one as grey, from 1 on; empty for the first."""

    def __post_init__(self) -> None:
        """Raise BadInputError for values that no set has: a form may come from a file."""
        numbers = (*self.mean, *self.std)
        if type(self.channels) is not int or not 0 < self.channels <= MOST_CHANNELS or self.depth not in DEPTHS:
            raise BadInputError(f"there are no images with {quote(self.channels)} channels of {quote(self.depth)}")
        if not len(self.mean) == len(self.std) == self.channels or not all(map(math.isfinite, numbers)):
            raise BadInputError(
                f"mean and std of {len(self.mean)} and {len(self.std)} numbers: expected {self.channels}"
            )
        if min(self.std) <= 0 or not all(isinstance(ending, str) and ending for ending in self.bands):
            raise BadInputError(f"std {min(self.std)} and bands {quote(self.bands)}: expected more than 0, and endings")
        parse_no_data(self.no_data)

    @property
    def kind(self) -> str:
        """Describe channels and number type in words."""
        return describe_kind(self.channels, self.depth)

    def show(self, image: Channels) -> Image:
        """Return bytes of RGB (3, H, W) for people: from two standard deviations below the mean to two above it."""
        rows = [number - 1 for number in self.seen]
        mean, std = (torch.tensor([values[row] for row in rows]).view(-1, 1, 1) for values in (self.mean, self.std))
        shown = ((image[rows] - mean) / (2 * SHOWN * std) + 0.5).clamp(0, 1)
        return (shown * 255).round().to(torch.uint8).expand(3, -1, -1)

    @property
    def seen(self) -> tuple[int, ...]:
        """Return the channels to display: the chosen ones, else the first three, or the first of fewer."""
        return self.shown or ((1, 2, 3) if self.channels > 2 else (1,))

    def with_shown(self, chosen: Sequence[int]) -> "Form":
        """Return the form with others shown. Raises BadInputError where these are not one or three of the channels."""
        if len(chosen) not in (0, 1, 3) or not all(1 <= number <= self.channels for number in chosen):
            raise BadInputError(
                f"--show-channels {' '.join(map(str, chosen))}: expected one channel, or three for red, green and "
                f"blue, from 1 to {self.channels}"
            )
        return dataclasses.replace(self, shown=tuple(chosen))


def to_unit(pixels: Tensor) -> Tensor:
    """Return bytes as values in [0, 1], and channels as they are."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def with_shown(form: Form | None, chosen: Sequence[int]) -> Form | None:
    """Return a form that shows these channels. Raises BadInputError where images are RGB, or have no such channels."""
    if form is None and chosen:
        raise BadInputError("--show-channels is for images of other channels, and these weights take RGB: leave it out")
    return None if form is None else form.with_shown(chosen)


def describe_digest(form: Form | None) -> dict[str, Any] | None:
    """Return what values computed of images depend on, for JSON; None for bytes of RGB."""
    return None if form is None else {**dataclasses.asdict(form), "shown": None}


def describe_kind(channels: int, depth: str) -> str:
    """Say how many channels there are, and of what numbers."""
    return f"{counted(channels, 'channel')} of {depth}"


def parse_no_data(text: str | None) -> float | None:
    """Return the number that `--no-data` names. Raises BadInputError where it names none."""
    if text is None:
        return None
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"--no-data {quote(text)}: expected a number, or nan") from error


def parse_channels(text: str) -> int | None:
    """Return the number that `--channels` names; None for auto and rgb. Raises BadInputError for anything else."""
    if text in (AUTO, RGB):
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not 0 < number <= MOST_CHANNELS:
        raise BadInputError(f"--channels {text[:40]}: expected auto, rgb, or a number from 1 to {MOST_CHANNELS}")
    return number
