"""An image file -> RGB bytes, upright, by Pillow: every format that is read, and what is refused."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.TiffImagePlugin import EXTRASAMPLES, PHOTOMETRIC_INTERPRETATION, SAMPLESPERPIXEL, TiffImageFile

from moco.errors import BadInputError
from moco.shapes import Image

TIFF_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3}
"""Bands of RGB, CMYK, YCbCr and L*a*b* in a TIFF; grey and palette have one."""

HEIC_READER = next((name for name in ("pillow_heif", "pi_heif") if find_spec(name) is not None), None)
"""The optional package that lets Pillow read HEIC (the extra `heic`)."""
if HEIC_READER is not None:
    import_module(HEIC_READER).register_heif_opener()

FORMATS = (
    "AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", *(("HEIF",) if HEIC_READER else ()),
)  # fmt: skip
"""The formats that are read, whatever a file is called. Pillow knows more, and has EPS drawn by another program."""


def decode(path: bytes | str | Path) -> Image:
    """Read an image file as RGB bytes (3, H, W): upright by its EXIF tag, its first frame where it has several.

    Grey and palette images become RGB, 16 bits are scaled to 8, transparent parts lie on white, CMYK is converted.
    Raises BadInputError naming the file for anything else: other bands, floating point, not an image, or more pixels
    than Pillow takes for honest (refused from the header).
    """
    return _decode(os.fsdecode(path), os.fsdecode(path))


def decode_bytes(content: bytes, name: str) -> Image:
    """`decode` the content of an image file; errors call it `name`."""
    return _decode(io.BytesIO(content), name)


def require_header(content: bytes, name: str) -> None:
    """Raise BadInputError, as `decode_bytes` does, where the content does not begin as an image file does."""
    with _open(io.BytesIO(content), name):
        pass


def _decode(source: str | io.BytesIO, name: str) -> Image:
    with _open(source, name) as file:
        return from_pillow(file, name)


@contextmanager
def _open(source: str | io.BytesIO, name: str) -> Iterator[PillowImage.Image]:
    try:
        with PillowImage.open(source, formats=FORMATS) as file:
            yield file
    except BadInputError:
        raise
    except Exception as error:  # a decoder fails as it likes on a damaged file
        reason = str(error).replace(repr(source), repr(name))  # else an address in memory, another one each time
        raise BadInputError(f"{name}: cannot be read as an image ({reason}): remove or replace it") from error


def from_pillow(image: PillowImage.Image, name: str) -> Image:
    """Do what `decode` does with a file that Pillow has opened; errors call it `name`."""
    _check_bands(image, name)
    rgb = _to_rgb(ImageOps.exif_transpose(image), name)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _check_bands(file: PillowImage.Image, name: str) -> None:
    """Refuse a TIFF with further bands: Pillow drops them, or takes a fourth one for opacity."""
    if not isinstance(file, TiffImageFile):
        return
    bands, extra = file.tag_v2.get(SAMPLESPERPIXEL, 1), file.tag_v2.get(EXTRASAMPLES, ())
    opacity = len(extra) == 1 and extra[0] in (1, 2)
    colours = TIFF_COLOURS.get(file.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 0), 1)
    if bands > colours + opacity:
        raise BadInputError(f"{name}: {bands} bands, expected grey, RGB, or RGB with opacity: convert it to RGB")


def _to_rgb(image: PillowImage.Image, name: str) -> PillowImage.Image:
    transparent = image.info.get("transparency")
    if image.mode in ("RGBA", "LA", "PA") or (transparent is not None and image.mode in ("1", "P", "L", "RGB")):
        rgba = image.convert("RGBA")
        return PillowImage.alpha_composite(PillowImage.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grey, also where Pillow keeps it in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BadInputError(f"{name}: values {values.min()} to {values.max()}, expected 16 bits: convert it")
        if transparent is not None:
            values = np.where(values == transparent, 65535, values)
        return PillowImage.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGB", "1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    bands = ", ".join(image.getbands())
    raise BadInputError(
        f"{name}: mode {image.mode} (bands {bands}), expected grey, palette, RGB, RGBA or CMYK: convert it to RGB"
    )
