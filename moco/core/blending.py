"""Query views that are mixed with each other, by mixup or CutMix (arXiv:1710.09412, arXiv:1905.04899)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moco.runtime.exchange import send
from moco.runtime.randomness import Stream, seed_of
from moco.shapes import Views


class Blend(NamedTuple):
    """A batch of views, each mixed with another of the batch."""

    views: Views
    """(N, 3, H, W)"""
    partner: Tensor
    """(N,): the row that each view is mixed with."""
    own: float
    """The share of itself that each view keeps, the same for all of them."""


def blend_views(x: Views, *, seed: int, step: int, place: int) -> Blend:
    """Mix the views x (N, 3, H, W) with a permutation of themselves, by mixup or CutMix, with equal chances.

    Mixup is a x_i + (1 - a) x_j with a from Beta(1/2, 1/2). CutMix puts a square of x_j in the same place of x_i; its
    area 1 - a is uniform in (0, 1), up to whole pixels. The loss of the mixed views is a L_i + (1 - a) L_j. All is a
    pure function of (seed, step, place), where `place` numbers the parts of a step.
    """
    drawn = np.random.default_rng(seed_of(seed=seed, stream=Stream.BLEND, epoch=step, index=place))
    partner = send(torch.from_numpy(drawn.permutation(len(x))), x.device)
    if drawn.random() < 0.5:
        own = math.sin(math.pi / 2 * drawn.random()) ** 2
        return Blend(torch.lerp(x[partner], x, own), partner, own)
    height, width = x.shape[2:]
    side = math.sqrt(drawn.random())
    rows, columns = round(side * height), round(side * width)
    top, left = drawn.integers(0, height - rows + 1), drawn.integers(0, width - columns + 1)
    square = (..., slice(top, top + rows), slice(left, left + columns))
    views = x.clone(memory_format=torch.preserve_format)
    views[square] = x[partner][square]
    return Blend(views, partner, 1 - rows * columns / (height * width))
