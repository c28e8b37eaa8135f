"""The last feature map of a backbone, which most networks average, and its averages over the cells of grids."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.networks import REFUSALS
from moco.core.resnet import ResNet
from moco.errors import BadInputError
from moco.shapes import Features, Inputs, Views

FINEST = 3
"""Cells in a row of the finest grid."""
MOST_NUMBERS = 8192
"""Numbers of a feature over a grid, at most."""
ROUNDING = 1e-3
"""Share of the largest feature by which the average of a map may differ from the feature and still be the same."""


def compute_map(backbone: nn.Module, x: Views) -> Tensor:
    """Compute the map (N, C, h, w) of images x: what our ResNets, timm's or torchvision's networks pool.

    Raises BadInputError where the network names none.
    """
    if isinstance(backbone, ResNet):
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            x = stage(x)
        return x
    known = getattr(backbone, "forward_features", None) or getattr(backbone, "features", None)
    if known is None:
        raise BadInputError("has no feature map that it names")
    return torch.as_tensor(known(x))


class Grids(nn.Module):
    """Images -> averages of the map over the k x k cells of one or more grids, (N, C k_1^2 + C k_2^2 + ...)."""

    def __init__(self, backbone: nn.Module, grids: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.grids = backbone, tuple(grids)

    def forward(self, x: Views) -> Features:
        """Encode images x (N, channels, H, W)."""
        return encode_over(self.backbone, x, self.grids)


def encode_over(backbone: nn.Module, x: Views, grids: tuple[int, ...]) -> Features:
    """Average the map of images x over the cells of each grid: (N, C k_1^2 + C k_2^2 + ...).

    Of each grid channels come first, then rows and columns. A grid of one cell gives the plain features.
    """
    if grids == (1,):
        return cast(Tensor, backbone(x))
    maps = compute_map(backbone, x)
    return torch.cat([average_cells(maps, k) for k in grids], 1)


def average_cells(maps: Tensor, k: int) -> Features:
    """Average maps (N, C, h, w) over the k x k cells of a grid: (N, C k k); cells share what falls between two."""
    return F.adaptive_avg_pool2d(maps, k).flatten(1)


def count_numbers(channels: int, grids: Sequence[int]) -> int:
    """Count the numbers that `Grids` gives for one image."""
    return channels * sum(k * k for k in grids)


@torch.no_grad()
def find_grids(backbone: nn.Module, channels: int, example: Inputs) -> tuple[int, ...]:
    """List the grids over which features can be averaged: 1, and finer ones where the features are a map's average.

    `example` is an image (1, channels, H, W), and the backbone is in evaluation mode. No grid has more cells in a row
    than the map, nor more than MOST_NUMBERS in all.
    """
    if not example.is_floating_point():  # of a document
        return (1,)
    x = torch.linspace(-1, 1, example.numel(), device=example.device).view_as(example)
    try:
        plain, maps = backbone(x), compute_map(backbone, x)
    except (BadInputError, *REFUSALS):
        return (1,)
    if maps.dim() != 4 or maps.shape[:2] != (1, channels):
        return (1,)
    if not torch.allclose(average_cells(maps, 1), plain, rtol=0, atol=ROUNDING * float(plain.abs().max())):
        return (1,)
    finest = min(FINEST, *maps.shape[2:])
    return tuple(k for k in range(1, finest + 1) if k == 1 or count_numbers(channels, (k,)) <= MOST_NUMBERS)
