"""The first layers of a ResNet, by name. No torch is imported here, so that a command line can be read without it."""

from dataclasses import dataclass
from typing import Literal

Stem = Literal[
    "cifar", "cifar-padded", "cifar-pooled", "cifar-linear", "imagenet", "imagenet-unpooled", "imagenet-linear"
]


@dataclass(frozen=True)
class StemPlan:
    """What lies before the first stage: a convolution, batch normalisation, and perhaps ReLU and max-pooling."""

    kernel: int
    stride: int
    padding: int
    relu: bool = True
    pool: bool = True


STEMS: dict[Stem, StemPlan] = {
    "imagenet": StemPlan(7, 2, 3),
    "imagenet-unpooled": StemPlan(7, 2, 3, pool=False),
    "imagenet-linear": StemPlan(7, 2, 3, relu=False, pool=False),
    "cifar": StemPlan(3, 1, 1, pool=False),
    "cifar-padded": StemPlan(3, 1, 2, pool=False),
    "cifar-pooled": StemPlan(3, 1, 1),
    "cifar-linear": StemPlan(3, 1, 1, relu=False, pool=False),
}
"""Torchvision's, the usual one for small images, and those of other projects: solo-learn pads by 2, and a Sequential
of the children of lightly's ResNetGenerator has no ReLU."""
