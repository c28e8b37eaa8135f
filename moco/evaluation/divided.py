"""Features of whole images and of their parts, from which a linear classifier takes those that suit it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.core.maps import count_numbers
from moco.core.whitening import MOST_SQUARE, principal_map
from moco.data.images import Images
from moco.evaluation.again import encode_again, encode_networks
from moco.evaluation.features import ROWS_AT_A_TIME, Encoding
from moco.shapes import Features

MOST_AT_ONCE = 1 << 29
"""Numbers of all training images that are held at a time, at most: 2 GiB."""

MOST_READ = 1024
"""Numbers of an image's parts that a classifier reads, at most, unless plain features have more."""


@dataclass(frozen=True)
class Division:
    """Averages over the cells of a grid, as a classifier reads them: turned to fewer numbers if they are many."""

    grid: int
    """Cells in a row; 1: the whole image, whose features stay as they are."""
    weight: Tensor | None = None
    """(K, C) of their principal components."""
    bias: Tensor | None = None
    """(K,)."""

    def __call__(self, averages: Features) -> Tensor:
        """Return (n, K) for averages (n, C) over this grid."""
        if self.weight is None:
            return averages
        rows = torch.split(averages, ROWS_AT_A_TIME)
        return torch.cat([F.linear(some, self.weight, self.bias) for some in rows])


def list_grids(encoder: Encoder, how: Encoding, images: int) -> tuple[int, ...]:
    """List the grids whose averages of so many images can be held at a time: 1, and finer ones if there is a map."""
    grids = encoder.grids(how.image_size)
    while len(grids) > 1 and images * count_numbers(encoder.num_features, grids) > MOST_AT_ONCE:
        grids = grids[:-1]
    return grids


def encode_divided(
    encoder: Encoder, images: Images, how: Encoding, grids: Sequence[int], title: str | None = None
) -> list[Tensor]:
    """Encode images, or read what an earlier evaluation kept of them: plain features, and averages over finer grids."""
    if tuple(grids) == (1,):
        return [encode_again(encoder, images, how, title)]
    return encode_networks(encoder, images, how, title, grids)


def divide_features(averages: Sequence[Tensor], grids: Sequence[int]) -> list[Division]:
    """Find the principal components of training images' averages over each grid but that of one cell.

    At most MOST_READ are kept, or as many as plain features have.
    """
    found = [Division(1)]
    most = max(MOST_READ, averages[0].shape[1])
    for k, some in zip(grids[1:], averages[1:], strict=True):
        turned = principal_map(some[:: -(-len(some) // (2 * MOST_SQUARE))], most) if some.shape[1] > most else None
        found.append(Division(k) if turned is None else Division(k, *turned))
    return found
