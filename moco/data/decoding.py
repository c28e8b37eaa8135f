"""An image file -> RGB bytes, upright, by Pillow: every format that is read, and what is refused."""

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from moco.data.mending import mend
from moco.data.opening import HEAD, BinaryFile, is_heif, name_format, open_regular, read_limit
from moco.data.stalls import watch_read
from moco.data.tiff import check_bands, describe_bands, describe_tiff, is_unsigned
from moco.errors import BadInputError
from moco.shapes import Image

HEIC_READER = "pi_heif" if find_spec("pi_heif") is not None else None
"""The optional package that lets Pillow read HEIC (the extra `heic`)."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file is called. Pillow knows more, and has EPS drawn by another program."""


LONGEST_SIDE = 300_000
"""Pixels on a side beyond which an image is refused: resized, a line of more pixels would not fit into memory."""

MOST_PIXELS_SETTING = "MOCO_MOST_PIXELS"
MOST_PIXELS = read_limit(MOST_PIXELS_SETTING, 178_956_970)
"""Pixels of an image beyond which it is refused, unless `limit_pixels` says otherwise."""
warnings.filterwarnings("ignore", category=PillowImage.DecompressionBombWarning)  # `check_size` names the file

WHITEST = 65535
"""The largest value of 16 bits."""
Deep = npt.NDArray[np.uint32]
"""The values (H, W) of a grey image of 16 bits."""

T = TypeVar("T")
_named_as_large = set[str]()
_most_pixels = MOST_PIXELS


def most_pixels() -> int:
    """Return the most pixels that an image may have now."""
    return _most_pixels


def set_most_pixels(most: int) -> None:
    """Refuse images of more pixels in this process, in Pillow too, and warn of those of more than half as many."""
    global _most_pixels
    _most_pixels = most
    PillowImage.MAX_IMAGE_PIXELS = (most + 1) // 2  # Pillow refuses twice as many


set_most_pixels(MOST_PIXELS)


@contextmanager
def limit_pixels(most: int | None) -> Iterator[None]:
    """Refuse images of more pixels meanwhile, in loading processes too; None leaves the limit as it is."""
    before = most_pixels()
    set_most_pixels(before if most is None else most)
    try:
        yield
    finally:
        set_most_pixels(before)


def decode(path: bytes | str | Path, white_level: int = WHITEST, *, upright: bool = True) -> Image:
    """Read an image file as RGB bytes (3, H, W): upright by its EXIF tag, its first frame where it has several.

    Grey and palette images become RGB, transparent parts lie on white, CMYK is converted. Of 16 bits of grey
    `white_level` and more becomes 255, and what is below it is scaled by the same factor. Without `upright` the EXIF
    tag is not obeyed.
    Raises BadInputError naming the file for anything else: other bands, floating point, not an image, no regular file,
    or more pixels than Pillow takes for honest (refused from the header).
    """
    return use_file(os.fsdecode(path), lambda image, name: from_pillow(image, name, white_level, upright=upright))


def decode_bytes(content: bytes, name: str, white_level: int = WHITEST) -> Image:
    """Decode the content of an image file as `decode` does; errors call it `name`."""
    return _use(io.BytesIO(content), name, lambda image, name: from_pillow(image, name, white_level))


def decode_deep(content: bytes, name: str) -> Deep | None:
    """Read the values of a grey image of 16 bits; None for any other image. Raises BadInputError as `decode` does."""

    def read(image: PillowImage.Image, name: str) -> Deep | None:
        check_bands(image, name)
        return _read_deep(image, name, _Numbers.of(image)) if image.mode.startswith("I") else None

    return _use(io.BytesIO(content), name, read)


def use_file(name: str, use: Callable[[PillowImage.Image, str], T]) -> T:
    """Return what `use` makes of the image in a file on disk. Raises BadInputError as `decode` does."""
    with watch_read(name), open_regular(name) as file:
        return _use(file, name, use)


def use_picture(content: bytes, name: str, use: Callable[[PillowImage.Image, str], T]) -> T:
    """Return what `use` makes of the image in a file that Pillow reads. Raises BadInputError as `decode` does."""
    return _use(io.BytesIO(content), name, use)


def require_header(content: bytes, name: str) -> None:
    """Raise BadInputError, as `decode_bytes` does, where the content does not begin as an image file does."""
    _use(io.BytesIO(content), name, lambda image, name: None)


def _use(file: BinaryFile, name: str, use: Callable[[PillowImage.Image, str], T]) -> T:
    """Return what `use` makes of the opened image, if need be of a copy without damaged metadata."""
    try:
        with _open(file, name) as image:
            return use(image, name)
    except BadInputError:
        content = mend(file)
        if content is None:
            raise
    with _open(io.BytesIO(content), name) as image:
        return use(image, name)


@contextmanager
def _open(file: BinaryFile, name: str) -> Iterator[PillowImage.Image]:
    try:
        file.seek(0)
        formats = (*FORMATS, "HEIF") if _can_read_heif(file) else FORMATS
        with PillowImage.open(file, formats=formats) as image:
            check_size(*image.size, name)
            yield image
    except BadInputError:
        raise
    except PillowImage.DecompressionBombError as error:
        raise too_large(name) from error
    except Exception as error:  # a decoder fails as it likes on a damaged file
        reason = str(error).replace(repr(file), repr(name))  # else an address in memory, another one each time
        raise BadInputError(_explain(file, name, reason)) from error


def _explain(file: BinaryFile, name: str, reason: str) -> str:
    """Say why a file cannot be read: by what it is where that is known, else in the decoder's words."""
    with suppress(OSError):
        file.seek(0)
        head = file.read(HEAD)
        words = "" if "cannot identify" in reason else f"; {reason}"
        tiff = describe_tiff(file) if head[:2] in (b"II", b"MM") else None
        if tiff is not None:
            expected = "expected grey or RGB of 8 bits, or grey of 16: convert it, or remove or replace it"
            return f"{name}: cannot be read as an image (it is {tiff}{words}), {expected}"
        known = name_format(head)
        if known is not None:
            return f"{name}: cannot be read as an image (it is {known}): convert it to PNG, or remove or replace it"
    return f"{name}: cannot be read as an image ({reason}): remove or replace it"


def _can_read_heif(file: BinaryFile) -> bool:
    """Tell whether the file is HEIF and the extra that reads it is there, which is made known to Pillow."""
    head = file.read(HEAD)
    file.seek(0)
    if not is_heif(head) or HEIC_READER is None:
        return False
    import_module(HEIC_READER).register_heif_opener()
    return True


def check_size(width: int, height: int, name: str) -> None:
    """Raise BadInputError for an image that is too large, and warn, once in a process, of one that nearly is."""
    if max(width, height) > LONGEST_SIDE:
        raise BadInputError(
            f"{name}: {width} x {height} pixels, expected at most {LONGEST_SIDE} on a side: cut it into pieces"
        )
    if width * height > most_pixels():
        raise too_large(name)
    if width * height > (PillowImage.MAX_IMAGE_PIXELS or math.inf) and name not in _named_as_large:
        _named_as_large.add(name)
        warnings.warn(f"{name}: {width} x {height} pixels take much time and memory: make it smaller", stacklevel=2)


def too_large(name: str) -> BadInputError:
    """Return the error for an image of more pixels than it may have."""
    return BadInputError(
        f"{name}: more than {most_pixels()} pixels: make it smaller or remove it, or give a larger --most-pixels"
    )


def from_pillow(image: PillowImage.Image, name: str, white_level: int = WHITEST, *, upright: bool = True) -> Image:
    """Decode a file that Pillow has opened as `decode` does; errors call it `name`."""
    check_bands(image, name)
    turned = ImageOps.exif_transpose(image) if upright else image
    rgb = _to_rgb(turned, name, _Numbers.of(image), white_level)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


@dataclass(frozen=True)
class _Numbers:
    """What a file's values are, which Pillow does not say of an image that was turned."""

    kind: str
    """Bands and numbers in words."""
    unsigned: bool

    @classmethod
    def of(cls, image: PillowImage.Image) -> "_Numbers":
        kind = describe_bands(image.tag_v2) if isinstance(image, TiffImageFile) else f"mode {image.mode}"
        return cls(kind, is_unsigned(image))


def _to_rgb(image: PillowImage.Image, name: str, numbers: _Numbers, white_level: int) -> PillowImage.Image:
    transparent = image.info.get("transparency")
    if image.mode in ("RGBA", "LA", "PA") or (transparent is not None and image.mode in ("1", "P", "L", "RGB")):
        rgba = image.convert("RGBA")
        return PillowImage.alpha_composite(PillowImage.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grey, also where Pillow keeps it in 32
        values = _read_deep(image, name, numbers)
        if transparent is not None:
            values = np.where(values == transparent, WHITEST, values)
        values = np.minimum(values, white_level) * 255 + white_level // 2
        return PillowImage.fromarray((values // white_level).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGB", "1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    bands = ", ".join(image.getbands())
    raise BadInputError(
        f"{name}: {numbers.kind} (bands {bands}), expected grey, palette, RGB, RGBA or CMYK: convert it to RGB"
    )


def _read_deep(image: PillowImage.Image, name: str, numbers: _Numbers) -> Deep:
    values = np.asarray(image)
    values = values.view(np.uint32) if numbers.unsigned and values.dtype == np.int32 else values
    if values.min() < 0 or values.max() > WHITEST:
        found = f"{numbers.kind}, values {values.min()} to {values.max()}"
        raise BadInputError(f"{name}: {found}, expected unsigned values of 16 bits: convert it to these or to 8 bits")
    return values.astype(np.uint32)
