"""Views of annotated images for training; everything drawn comes from the generator that is given."""

import torch
from torch import Tensor

from moco.shapes import Image
from moco.transfer.targets import LabelMap, Objects, Skeleton

MEAN_COLOUR = (124, 116, 104)
"""Of ImageNet: what lies beyond an image's edge."""


def resize(image: Image, target: Objects, shorter: int, longest: int) -> tuple[Tensor, Objects]:
    """Resize to a shorter side of `shorter`, or less where the longer one would pass `longest`."""
    raise NotImplementedError


def flip(image: Image, target: Objects, skeleton: Skeleton | None = None) -> tuple[Tensor, Objects]:
    """Mirror left and right."""
    raise NotImplementedError


def detection_view(
    image: Image,
    target: Objects,
    shorter: tuple[int, int],
    longest: int,
    generator: torch.Generator,
    skeleton: Skeleton | None = None,
) -> tuple[Tensor, Objects]:
    """A shorter side drawn from a range, ends included, and a mirror image half of the time."""
    raise NotImplementedError


def semantic_view(
    image: Image, labels: LabelMap, crop: int, generator: torch.Generator, scale: tuple[float, float] = (0.5, 2.0)
) -> tuple[Tensor, Tensor]:
    """A scale drawn from a range, a crop of `crop` pixels square (padded, as VOID), mirrored half of the time."""
    raise NotImplementedError
