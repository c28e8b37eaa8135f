"""Plain JPEG photographs, decoded by the quickest decoder that is there; decoding.decode is for everything else.

`read_plain_size` finds in the header which files are plain: RGB or grey, upright, one picture. The pixels are those
of decoding.decode, bit for bit, unless they are asked for at a half, a quarter or an eighth of the size: then a decoder
computes fewer pixels from the same coefficients (of each block of 8x8 the lower frequencies, libjpeg's scaled DCT).
"""

import io
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from moco.shapes import Image

DECODER = "simplejpeg" if find_spec("simplejpeg") is not None else "pillow"
"""Simplejpeg is an extra; Pillow's own decoder, which takes more time, is always there."""
SHRINKS = (8, 4, 2, 1)
"""The sizes that the decoders' vector units compute; other eighths take longer than the full size."""
ORIENTATION = 0x0112
"""The EXIF tag that says how to turn a picture."""
FORMATS = ("JPEG",)


def read_plain_size(content: bytes) -> tuple[int, int] | None:
    """Read height and width of a plain JPEG; None where the content is anything else, damaged or too large."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    with suppress(Exception):  # decoding.decode raises the error
        file = PillowImage.open(io.BytesIO(content), formats=FORMATS)
        upright = file.getexif().get(ORIENTATION, 1) == 1
        if file.format == "JPEG" and file.mode in ("RGB", "L") and upright:
            return file.height, file.width
    return None


def choose_shrink(shortest: int, view_size: int) -> int:
    """Choose how much smaller to decode an image, so that its crop of shorter side `shortest` is not enlarged."""
    return next(shrink for shrink in SHRINKS if shortest >= view_size * shrink or shrink == 1)


def decode_plain(content: bytes, shrink: int = 1, decoder: str = DECODER) -> Image | None:
    """Decode a plain JPEG to 1 / shrink of its size, rounded up; None where it is damaged or the decoder cannot."""
    with suppress(Exception):  # as above
        decode = _decode_by_simplejpeg if decoder == "simplejpeg" else _decode_by_pillow
        pixels = decode(content, shrink)
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return None


def _decode_by_simplejpeg(content: bytes, shrink: int) -> npt.NDArray[np.uint8]:
    import simplejpeg

    if shrink == 1:
        return simplejpeg.decode_jpeg(content, "RGB")
    height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    wanted = (-(-height // shrink), -(-width // shrink))
    pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=wanted[0], min_width=wanted[1], min_factor=shrink)
    return _require_size(pixels, wanted)


def _decode_by_pillow(content: bytes, shrink: int) -> npt.NDArray[np.uint8]:
    with PillowImage.open(io.BytesIO(content), formats=FORMATS) as file:
        wanted = (-(-file.height // shrink), -(-file.width // shrink))
        if shrink > 1:
            file.draft("RGB", (file.width // shrink, file.height // shrink))
        return _require_size(np.array(file.convert("RGB")), wanted)


def _require_size(pixels: npt.NDArray[np.uint8], wanted: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if pixels.shape[:2] != wanted:
        raise ValueError(f"decoded to {pixels.shape[:2]}, expected {wanted}")
    return pixels
