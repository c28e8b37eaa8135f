"""Alignment and uniformity: what can be said of features without labels (Wang and Isola, arXiv:2005.10242)."""

import numpy as np
import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.augment import Augmentation, draw, render
from moco.data.images import ArrayImages, Images
from moco.evaluation.features import Encoding, encode
from moco.runtime.randomness import Stream
from moco.shapes import Features

EPOCH = 2**32 - 1
"""The views of the monitor are of an epoch that no run reaches."""


def alignment(z_1: Features, z_2: Features) -> float:
    """Compute E |z_1 - z_2|^2 over the positive pairs, rows of (N, C) each; 0 is best."""
    return float((z_1 - z_2).pow(2).sum(1).mean())


def uniformity(z: Features) -> float:
    """Log E exp(-2 |z_i - z_j|^2) over all pairs of rows of z (N, C); 0 where all are equal, -4 at the very best."""
    return float((-2 * torch.pdist(z).pow(2)).exp().mean().log())


def effective_rank(z: Features) -> float:
    """Compute exp of the entropy of the normalised singular values of z (N, C): how many directions it has.

    From 1, all rows being multiples of one vector, to min(N, C), all directions alike (Roy and Vetterli, EUSIPCO 2007;
    RankMe, arXiv:2210.02885). Nothing is centred: rows that are all equal have rank 1.
    """
    values = torch.linalg.svdvals(z.double())
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def find_own_views(z_1: Features, z_2: Features) -> Tensor:
    """Return whether each image's first view is more similar to its own second view than to all others: (N,) bool."""
    return (z_1 @ z_2.T).argmax(1) == torch.arange(len(z_1), device=z_1.device)


def align_uniform(encoder: Encoder, views: tuple[Images, Images], how: Encoding) -> dict[str, float]:
    """Measure alignment of two views of each image, and uniformity of the first ones, by the features of `how`."""
    z_1, z_2 = (encode(encoder, one, how) for one in views)
    return {"alignment": alignment(z_1, z_2), "uniformity": uniformity(z_1)}


def draw_pairs(images: Images, augmentation: Augmentation, size: int) -> tuple[Images, Images]:
    """Draw two views of each image, which are the same whenever this is called."""
    sizes = np.array([images[i].shape[1:] for i in range(len(images))])
    query, key = (_views(images, augmentation, sizes, stream, size) for stream in (Stream.VIEW_QUERY, Stream.VIEW_KEY))
    return query, key


def _views(
    images: Images,
    augmentation: Augmentation,
    sizes: "np.ndarray[tuple[int, int], np.dtype[np.int64]]",
    stream: Stream,
    size: int,
) -> ArrayImages:
    form = images.form
    parameters = draw(
        augmentation, sizes, seed=0, epoch=EPOCH, index=np.arange(len(images)), view=stream,
        deviations=() if form is None else form.std,
    )  # fmt: skip
    pixels: Tensor = render([images[i] for i in range(len(images))], parameters, augmentation, size)
    return ArrayImages((pixels * 255).round().to(torch.uint8) if form is None else pixels, form=form)
