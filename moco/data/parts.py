"""The part of each image that views of an epoch show: the whole, or one of some crops that a teacher encodes too."""

import numpy as np

from moco.data.augment import Augmentation, draw
from moco.runtime.randomness import Integers, IntegersLike, Stream

CROPS = Augmentation((0.2, 1.0), (0.0,) * 4, 0.0, flip_probability=0.0, grey_probability=0.0)
"""How the crops are drawn."""
FIRST_CROP = 2**31
"""They are drawn for epochs that no run reaches."""


def draw_parts(sizes: Integers, crops: int, *, seed: int, epoch: IntegersLike, index: IntegersLike) -> Integers:
    """Draw the part (n, 4) of each image that its views show in an epoch: the whole, or one of so many crops of it.

    Crop r, for epochs that leave r when divided by `crops` + 1, is the window of `CROPS` in epoch `FIRST_CROP` + r.
    """
    number = np.broadcast_to(np.asarray(epoch) % (crops + 1), len(sizes))
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    if not number.any():
        return whole
    drawn = draw(CROPS, sizes, seed=seed, epoch=FIRST_CROP + number, index=index, view=Stream.VIEW_QUERY)
    return np.where(number[:, None] > 0, drawn.crop, whole)
