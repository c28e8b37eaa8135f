"""Decoded images -> the squares that a frozen encoder gets."""

import torch.nn.functional as F
from torch import Tensor

from moco.data.forms import to_unit
from moco.shapes import Bytes, Image, Rendered, Square

CROP_SHARE = 0.875
"""Images are resized to size / 0.875 and their centre is cut out (256 and 224 in the papers) ..."""
SMALL = 64
"""... but for sizes up to this, where the whole of an image that is nearly square is resized."""
NEARLY_SQUARE = 1.1
"""Longer side over shorter side up to which a square image shows things hardly distorted."""
PREPARATION = 2
"""Version of `prepare_image` at small sizes, on which features depend that are kept; 1 squeezed images of any shape."""
LONGEST = 16
"""Times its shorter side, beyond which a larger image's longer side is cut first: of a line of pixels, resized, the
memory could not hold the rest."""


def describe_preparation(size: int) -> dict[str, int]:
    """Say how images are prepared at this size where that was another way before; nothing at other sizes."""
    return {"preparation": PREPARATION} if size <= SMALL else {}


def prepare_image(image: Image | Bytes, size: int) -> Square | Rendered:
    """Resize the shorter side to size / 0.875 and cut the centre, or resize the whole of a square to a small size.

    Of a batch of images (N, C, H, W) each becomes what it becomes alone, bit for bit.
    """
    sides = image.shape[-2:]
    if size <= SMALL and max(sides) <= NEARLY_SQUARE * min(sides):
        return prepare_whole(image, size)
    height, width = (min(side, LONGEST * min(sides)) for side in sides)
    y, x = (sides[0] - height) // 2, (sides[1] - width) // 2
    pixels = to_unit(image)[..., y : y + height, x : x + width]
    short = round(size / CROP_SHARE)
    rows, columns = (int(short * side / min(height, width)) for side in (height, width))
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return _resize(pixels, rows, columns)[..., top : top + size, left : left + size]


def prepare_whole(image: Image | Bytes, size: int) -> Square | Rendered:
    """Resize the whole image, or each of a batch, to a square; one of that size is left as it is."""
    pixels = to_unit(image)
    return pixels if pixels.shape[-2:] == (size, size) else _resize(pixels, size, size)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    batch = pixels if pixels.dim() == 4 else pixels[None]
    resized = F.interpolate(batch, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized.view(*pixels.shape[:-2], height, width)
