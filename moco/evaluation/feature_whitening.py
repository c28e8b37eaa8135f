"""Whitens an encoder's features on the user's own images, so that their neighbours share a class more often."""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.core.whitening import LEAST_SHARE, RIDGE, whitening_maps
from moco.data.derived import make_readable, take_evenly
from moco.data.images import Images, Labels
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import score_left_out
from moco.evaluation.session import labels_of
from moco.shapes import Features

RIDGES = (RIDGE, 0.003, 0.03)
"""Shares of the largest variance that are added to every variance; the first one where no labels choose."""
LEAST_SHARE_JUDGED = 0.1
"""Images, per number of a feature, that suffice where labels tell whether whitening pays; others need LEAST_SHARE."""
ROWS = 16384
"""Features that a whitening is estimated from, at most, and that are whitened at a time."""


@dataclass(frozen=True)
class Whitening:
    """The affine map x -> weight x + bias that whitens features, and what it does to the neighbours of images."""

    weight: Tensor
    """(C, C), symmetric."""
    bias: Tensor
    """(C,)."""
    images: int
    """Images that it was estimated from."""
    ridge: float
    top1: float | None = None
    """Percentage of these that the others classify rightly by kNN (leave-one-out); None where they have no labels."""
    plain_top1: float | None = None
    """The same with features that are not whitened."""

    def __call__(self, features: Features) -> Features:
        """Whiten features (n, C)."""
        parts = (part.float() @ self.weight + self.bias for part in torch.split(features, ROWS))
        return torch.cat([part.to(features.dtype) for part in parts])

    def add_to(self, encoder: Encoder) -> None:
        """Let an encoder whiten its features so."""
        encoder.add_whitening()
        encoder.whitening.load_state_dict({"weight": self.weight, "bias": self.bias})

    @property
    def figures(self) -> dict[str, Any]:
        """Say for a result what it is."""
        figures: dict[str, Any] = {"images": self.images, "ridge": self.ridge}
        if self.top1 is not None and self.plain_top1 is not None:
            figures |= {"top1": round(self.top1, 3), "plain_top1": round(self.plain_top1, 3)}
        return figures

    @property
    def sentence(self) -> str:
        """Say for people what it does."""
        said = f"the encoder whitens its features by the statistics of {self.images} training images"
        if self.top1 is None:
            return said
        return f"{said}: kNN accuracy among them rose from {self.plain_top1:.1f}% to {self.top1:.1f}%"


def fit_whitening(features: Features, ridges: tuple[float, ...] = RIDGES[:1]) -> list[Whitening]:
    """Fit a whitening of features (n, C) for each ridge (`whitening_maps`); none where all features are equal."""
    maps = zip(ridges, whitening_maps(features, ridges), strict=False)
    return [Whitening(weight, bias, len(features), ridge) for ridge, (weight, bias) in maps]


def least_images(numbers: int, judged: bool) -> int:
    """Return by how many images, at least, features of so many numbers are whitened; `judged` tells if labels judge."""
    return math.ceil((LEAST_SHARE_JUDGED if judged else LEAST_SHARE) * numbers)


def choose_whitening(
    features: Features, labels: Labels | None = None, classes: int = 0, *, temperature: float = 0.1
) -> Whitening | None:
    """Choose how features (n, C) are whitened; None where that does not pay, or they are too few to know.

    With labels the ridge is chosen by which the most of these images are classified rightly by the others, with the
    number of neighbours that suits best. Plain features are kept where they do as well.
    """
    judged = labels is not None and classes > 1
    if len(features) < least_images(features.shape[1], judged):
        return None
    step = -(-len(features) // ROWS)
    rows = features[::step].float()
    if labels is None or not judged:
        return next(iter(fit_whitening(rows)), None)
    own = labels[::step]
    plain = score_left_out(rows, own, classes, temperature)
    tried = [
        replace(one, top1=score_left_out(one(rows), own, classes, temperature), plain_top1=plain)
        for one in fit_whitening(rows, RIDGES)
    ]
    best = max(tried, key=lambda one: one.top1 or 0.0, default=None)
    return best if best is not None and (best.top1 or 0.0) > plain else None


@dataclass(frozen=True)
class FeatureWhitener:
    """Chooses a whitening of an encoder's features on training images."""

    images: Images
    how: Encoding
    temperature: float

    @classmethod
    def build(cls, images: Images, most: int, how: Encoding, temperature: float) -> "FeatureWhitener":
        """Take at most so many of the images, evenly spread."""
        how = replace(how, output="plain", unit=False)
        return cls(make_readable(take_evenly(images, most)), how, temperature)

    def __call__(self, encoder: Encoder) -> Whitening | None:
        """Encode the images and choose; every rank has all features, and chooses the same."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training has named the images that cannot be read
            z = encode(encoder, self.images, self.how, title=f"whitening: encoding {len(self.images)} images")
        labels = None if self.images.labels is None else labels_of(self.images)
        return choose_whitening(z, labels, len(self.images.classes), temperature=self.temperature)
