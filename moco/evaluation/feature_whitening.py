"""Whitens an encoder's features on the user's own images, so that their neighbours share a class more often."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.core.joined import JoinedBackbone
from moco.core.maps import count_numbers
from moco.core.whitening import LEAST_SHARE, RIDGE, whitening_maps
from moco.data.derived import make_readable, take_evenly
from moco.data.images import Images, Labels
from moco.evaluation.again import encode_again, encode_networks
from moco.evaluation.features import Encoding, encode_grids
from moco.evaluation.knn import score_left_out
from moco.evaluation.session import labels_of
from moco.shapes import Features

RIDGES = (RIDGE, 0.003, 0.03)
"""Shares of the largest variance that are added to every variance; the first one where no labels choose."""
LEAST_SHARE_JUDGED = 0.1
"""Images, per number of a feature, that suffice where labels tell whether whitening pays; others need LEAST_SHARE."""
ROWS = 16384
"""Features that a whitening is estimated from, at most, and that are whitened at a time."""
FEWEST_KEPT = 512
"""Numbers that are left of a feature over a grid, at most, unless plain features have more."""
UNJUDGED = 2
"""Cells in a row of the finest grid that is taken where no labels choose."""
SECONDS_A_NUMBER = 1e-6
"""Approximate time that choosing takes of one core, for each number of the features over all grids
(docs/measurements.md)."""
WORTH = 0.5
"""Points that a finer grid has to gain, since its features take more room."""


@dataclass(frozen=True)
class Whitening:
    """The affine map x -> weight x + bias that whitens features, and what it does to the neighbours of images."""

    weight: Tensor
    """(K, C); symmetric, unless directions are left out."""
    bias: Tensor
    """(K,)."""
    images: int
    """Images that it was estimated from."""
    ridge: float
    grid: int = 1
    """Cells in a row over which the map of an image is averaged: C is the square of that times the plain features'."""
    top1: float | None = None
    """Percentage of these that the others classify rightly by kNN (leave-one-out); None where they have no labels."""
    plain_top1: float | None = None
    """The same with features that are not whitened."""

    def __call__(self, features: Features) -> Tensor:
        """Whiten features (n, C), or those over all grids up to this or a finer one: (n, K)."""
        parts = (part.float() @ self.weight.T + self.bias for part in torch.split(self.pick(features), ROWS))
        return torch.cat([part.to(features.dtype) for part in parts])

    def pick(self, features: Features) -> Tensor:
        """Pick the features over its own grid of those over all grids up to this or a finer one."""
        own = self.weight.shape[1]
        start = count_numbers(own // self.grid**2, range(1, self.grid)) if features.shape[1] > own else 0
        return features[:, start : start + own]

    def add_to(self, encoder: Encoder) -> None:
        """Let an encoder whiten its features so."""
        encoder.add_whitening(len(self.weight), self.grid)
        encoder.whitening.load_state_dict({"weight": self.weight, "bias": self.bias})

    @property
    def figures(self) -> dict[str, Any]:
        """Say for a result what it is."""
        figures: dict[str, Any] = {"images": self.images, "ridge": self.ridge, "grid": self.grid}
        if self.top1 is not None and self.plain_top1 is not None:
            figures |= {"top1": round(self.top1, 3), "plain_top1": round(self.plain_top1, 3)}
        return figures

    @property
    def sentence(self) -> str:
        """Say for people what it does."""
        over = "" if self.grid == 1 else f", with features of {self.grid}x{self.grid} parts of each image"
        said = f"the encoder whitens its features by the statistics of {self.images} training images"
        if self.top1 is None:
            return said + over
        return f"{said}: kNN accuracy among them rose from {self.plain_top1:.1f}% to {self.top1:.1f}%{over}"


def fit_whitening(
    features: Features, ridges: tuple[float, ...] = RIDGES[:1], *, grid: int = 1, most: int | None = None
) -> list[Whitening]:
    """Fit a whitening of features (n, C) for each ridge (`whitening_maps`); none where all features are equal."""
    maps = zip(ridges, whitening_maps(features, ridges, most), strict=False)
    return [Whitening(weight, bias, len(features), ridge, grid) for ridge, (weight, bias) in maps]


def fit_again(whitening: Whitening | None, features: Features) -> Whitening | None:
    """Fit a whitening of the same grid and ridge to other features; None where there was none, or all are equal."""
    if whitening is None:
        return None
    own, most = whitening.pick(features), len(whitening.weight)
    return next(iter(fit_whitening(own, (whitening.ridge,), grid=whitening.grid, most=most)), None)


def least_images(numbers: int, judged: bool) -> int:
    """Return by how many images, at least, features of so many numbers are whitened; `judged` tells if labels judge."""
    return math.ceil((LEAST_SHARE_JUDGED if judged else LEAST_SHARE) * numbers)


def estimate_choosing(encoder: Encoder, size: int) -> float:
    """Estimate the seconds that `choose_whitening` takes for each image of this size."""
    return SECONDS_A_NUMBER * count_numbers(encoder.num_features, encoder.grids(size))


def choose_whitening(
    features: Features, labels: Labels | None = None, classes: int = 0, *, temperature: float = 0.1,
    grids: Sequence[int] = (1,),
) -> Whitening | None:  # fmt: skip
    """Choose how features (n, C), or those over several grids, are whitened; None where that does not pay.

    With labels the grid and the ridge are chosen by which the most of these images are classified rightly by the
    others, with the number of neighbours that suits best. Plain features are kept where they do as well, or where the
    images are too few to know. Without labels, the finest grid is taken up to UNJUDGED for which the images suffice.
    """
    width = features.shape[1] // count_numbers(1, grids)
    judged = labels is not None and classes > 1
    if len(features) < least_images(width, judged):
        return None
    step = -(-len(features) // ROWS)
    rows = features[::step].float()
    blocks = zip(grids, torch.split(rows, [count_numbers(width, (k,)) for k in grids], 1), strict=True)
    enough = {k: block for k, block in blocks if len(features) >= least_images(block.shape[1], judged)}
    common: dict[str, Any] = {"most": max(FEWEST_KEPT, width)}
    if labels is None or not judged:
        finest = max((k for k in enough if k <= UNJUDGED), default=None)
        return None if finest is None else next(iter(fit_whitening(enough[finest], grid=finest, **common)), None)
    own = labels[::step]
    plain = score_left_out(rows[:, :width], own, classes, temperature)
    best: Whitening | None = None
    for k, block in enough.items():
        for one in fit_whitening(block, RIDGES, grid=k, **common):
            top1 = score_left_out(one(block), own, classes, temperature)
            if top1 > _to_beat(best, k, plain):
                best = replace(one, top1=top1, plain_top1=plain)
    return best


def _to_beat(best: Whitening | None, grid: int, plain: float) -> float:
    """What a whitening over a grid has to exceed to be taken in place of the best one so far."""
    if best is None or best.top1 is None:
        return plain + (WORTH if grid > 1 else 0.0)
    return best.top1 + (WORTH if grid > best.grid else 0.0)


@dataclass(frozen=True)
class FeatureWhitener:
    """Chooses a whitening of an encoder's features on training images."""

    images: Images
    how: Encoding
    temperature: float
    keeps: bool = False
    """Whether features are kept for other evaluations of these images."""

    @classmethod
    def build(cls, images: Images, most: int, how: Encoding, temperature: float) -> "FeatureWhitener":
        """Take at most so many of the images, evenly spread."""
        how = replace(how, unit=False)
        return cls(make_readable(take_evenly(images, most)), how, temperature)

    def __call__(self, encoder: Encoder) -> Whitening | None:
        """Encode the images and choose; every rank has all features, and chooses the same."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training has named the images that cannot be read
            grids = encoder.grids(self.how.image_size)
            what = encoder, self.images, self.how
            said = f"whitening: encoding {len(self.images)} images"
            if isinstance(encoder.backbone, JoinedBackbone):
                z = encode_again(encoder, self.images, replace(self.how, output="plain"), said)
            elif self.keeps:
                z = torch.cat(encode_networks(*what, said, grids), 1)
            else:
                z = encode_grids(*what, grids, said)
        labels = None if self.images.labels is None else labels_of(self.images)
        return choose_whitening(z, labels, len(self.images.classes), temperature=self.temperature, grids=grids)
