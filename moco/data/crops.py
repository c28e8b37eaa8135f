"""What loading processes hand over where views are finished on a device: crops as bytes, and what was drawn for them.

A crop of 224 pixels takes a quarter of its view's bytes in fp32. Everything after it (colours, blur, flip,
quarter turns, normalisation) is `finishing.finish_views`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moco.data.augment import CONTRAST, HUE, SATURATION, ViewParameters
from moco.data.replacement import ChosenImages, Replaced
from moco.data.views import Look, crop_bytes, decode_rows, draw_views_of_one_size
from moco.runtime.randomness import Stream
from moco.shapes import Image

WINDOW = slice(0, 4)
"""Columns of what was drawn for a view: top, left, height and width of its crop."""
SHARE, OWN, MEAN = slice(4, 10), slice(10, 16), slice(16, 22)
"""Six blends, three before the hue is turned and three after it: pixel -> share pixel + own luminance + mean of the
image's luminance. An operation is in its drawn place among them, and the others change nothing."""
SHIFT, GREY, SIGMA, FLIP, TURNS = 22, 23, 24, 25, 26
COLUMNS = 27


class Crops(NamedTuple):
    """The crops of a batch of n images with v views each, and the random numbers that finish them."""

    pixels: Tensor | None
    """(v, n, 3, S, S) bytes: crops; or (n, 3, H, W): images to be cropped; None where these are on the device."""
    drawn: Tensor
    """(v, n, COLUMNS), fp32."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(n,): the images."""
    replaced: tuple[Replaced, ...] = ()

    def pin_memory(self) -> "Crops":
        """Copy the tensors to memory from which a GPU reads by itself."""
        pixels = None if self.pixels is None else self.pixels.pin_memory()
        return Crops(pixels, self.drawn.pin_memory(), self.index.pin_memory(), self.replaced)


def make_crops(chosen: ChosenImages, streams: Sequence[Stream], look: Look, *, with_pixels: bool = True) -> Crops:
    """Decode the chosen images once and crop them for each stream; images in memory are handed over as they are.

    Without `with_pixels` images in memory are not handed over at all. Images that cannot be read are replaced in
    `chosen`, or BadInputError is raised where it has no stand-ins.
    """
    chosen.replace_known()
    pixels: Tensor | None = chosen.images.stack(chosen.index if with_pixels else chosen.index[:1])
    if pixels is not None:
        drawn = draw_views_of_one_size(chosen, pixels, streams, look)
    else:
        pixels = torch.from_numpy(np.empty((len(streams), len(chosen.index), 3, look.size, look.size), np.uint8))
        crops = pixels

        def use(row: int, image: Image, shrink: int, drawn: Sequence[ViewParameters]) -> None:
            for parameters, out in zip(drawn, crops, strict=True):
                crop_bytes(image, shrink, parameters.crop[row], look, out[row])

        drawn = decode_rows(chosen, streams, look, use)
    packed = torch.from_numpy(np.stack([pack_drawn(parameters) for parameters in drawn]))
    held = chosen.images.in_memory and not with_pixels
    return Crops(None if held else pixels, packed, torch.from_numpy(chosen.index), chosen.replaced())


def pack_drawn(parameters: ViewParameters) -> npt.NDArray[np.float32]:
    """Write what was drawn for n views as (n, COLUMNS)."""
    n = len(parameters.order)
    packed = np.zeros((n, COLUMNS), np.float32)
    share, own, mean = packed[:, SHARE], packed[:, OWN], packed[:, MEAN]
    share[:] = 1
    hue_at = (parameters.order == HUE).argmax(1)
    for position in range(parameters.order.shape[1]):
        operation = parameters.order[:, position]
        blended = np.flatnonzero((operation >= 0) & (operation != HUE))
        place = np.where(position < hue_at[blended], position, position + 2)
        factor = parameters.factors[blended, operation[blended]]
        share[blended, place] = factor
        own[blended, place] = np.where(operation[blended] == SATURATION, 1 - factor, 0)
        mean[blended, place] = np.where(operation[blended] == CONTRAST, 1 - factor, 0)
    jittered = parameters.order[:, 0] >= 0
    packed[:, WINDOW] = parameters.crop
    packed[:, SHIFT] = np.where(jittered, parameters.factors[:, HUE], 0)
    packed[:, GREY], packed[:, SIGMA], packed[:, FLIP] = parameters.grey, parameters.sigma, parameters.flip
    packed[:, TURNS] = 0 if parameters.turns is None else parameters.turns
    return packed
