"""An image file -> all its channels at full depth: NumPy arrays, TIFF of bands or pages, PNG, DICOM, pictures."""

import io
import logging
import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT, SAMPLESPERPIXEL

from moco.data.decoding import LONGEST_SIDE, use_picture
from moco.data.dicom import is_dicom, read_dicom
from moco.data.forms import MOST_CHANNELS, Form, describe_kind, parse_no_data
from moco.data.opening import MOST_HELD, MOST_HELD_SETTING
from moco.data.tiff import check_bands, describe_tiff, read_tags
from moco.errors import BadInputError
from moco.shapes import Channels

MOST_VALUES = 1 << 29
"""Values of an image beyond which it is refused: 2 GiB of them."""
NUMPY, TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How files begin."""
NO_DATA_TAG = 42113
"""GDAL's tag of the no-data value."""
EXTRA = "pip install 'momentum-contrast[bands]'"

Array = npt.NDArray[Any]


class Values(NamedTuple):
    """The channels of a file as they are in it."""

    array: Array
    """(channels, H, W)"""
    no_data: str | None = None
    """The file's own no-data value."""

    @property
    def depth(self) -> str:
        """Return the number type, as `Form` names it."""
        return "float" if self.array.dtype.kind == "f" else self.array.dtype.name


def read_channels(content: bytes, name: str, channels: int | None = None) -> Values:
    """Read the channels of a file; errors call it `name`.

    Pages of a TIFF that have one size, and frames of a DICOM file, are channels. `channels` says along which axis of an
    array they lie where that is in doubt. Raises BadInputError for what is no image, or is too large.
    """
    if content.startswith(NUMPY):
        values = Values(_read_numpy(content, name, channels))
    elif is_dicom(content):  # before TIFF: its preamble may look like one
        values = Values(read_dicom(content, name))
    elif content.startswith(TIFF) and find_spec("tifffile") is not None:
        values = _read_tiff(content, name)
    elif is_deep_colour(content) and find_spec("imagecodecs") is not None:
        values = Values(_read_png(content, name, channels))
    else:
        values = Values(use_picture(content, name, _read_picture))
    array = values.array
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise BadInputError(f"{name}: values of type {array.dtype}, expected whole numbers or floating point")
    if array.ndim != 3 or not 0 < len(array) <= MOST_CHANNELS or not array.size:
        raise BadInputError(f"{name}: an array of shape {array.shape}, expected 1 to {MOST_CHANNELS} channels, H x W")
    if array.dtype.kind == "b":
        values = values._replace(array=array.astype(np.uint8))
    return values


def combine(parts: list[Values], names: list[str]) -> Values:
    """Put the channels of several files together. Raises BadInputError where their sizes or numbers differ."""
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        if part.array.shape[1:] != first.array.shape[1:] or part.depth != first.depth:
            (h, w), (height, width) = part.array.shape[1:], first.array.shape[1:]
            raise BadInputError(
                f"{name}: {h} x {w} pixels of {part.depth}, expected {height} x {width} of {first.depth} as in "
                f"{names[0]}: resample the bands of an image to one size"
            )
    return Values(np.concatenate([part.array for part in parts]), first.no_data)


def to_channels(values: Values, form: Form, name: str) -> Channels:
    """Return values as the images of a set are, what is missing as its channel's mean.

    Raises BadInputError where channels or numbers are others, values are not finite, or all of them are missing.
    """
    if len(values.array) != form.channels or values.depth != form.depth:
        takes = f"expected {form.kind} as the set has or the weights take: convert it, remove it, or give other weights"
        raise BadInputError(f"{name}: {describe_kind(len(values.array), values.depth)}, {takes}")
    pixels = mask_missing(values, form.no_data, name)
    missing = np.isnan(pixels)
    if missing.any():
        if missing.all():
            raise BadInputError(f"{name}: every value is {form.no_data}, which means missing data: remove it")
        mean = np.array(form.mean, np.float32)[:, None, None]
        pixels = np.where(missing, mean, pixels)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def mask_missing(values: Values, no_data: str | None, name: str) -> npt.NDArray[np.float32]:
    """Return values in 32-bit floating point, what is missing as NaN. Raises BadInputError for others not finite."""
    array, missing = values.array, parse_no_data(no_data)
    with np.errstate(over="ignore"):
        pixels = array.astype(np.float32)
    if missing is not None:
        gone = _find(array, missing)
        if array.dtype.kind == "f":
            gone |= _find(pixels, missing)
        pixels[gone] = np.nan
    else:
        gone = np.zeros(1, bool)
    bad = ~np.isfinite(pixels) & ~gone
    if bad.any():
        channel, y, x = (int(place[0]) for place in np.nonzero(bad))
        raise BadInputError(
            f"{name}: {int(bad.sum())} of {array.size} values are not finite (the first: {array[channel, y, x]} in "
            f"channel {channel + 1}, row {y}, column {x}), expected finite numbers: give --no-data nan, and NaN "
            f"becomes its channel's mean, or repair the file"
        )
    return pixels


def _find(array: Array, value: float) -> npt.NDArray[np.bool_]:
    """Tell where an array is `value`: nowhere where its type has no such number, as -9999 among unsigned ones."""
    if math.isnan(value):
        return np.asarray(np.isnan(array))
    if array.dtype.kind == "f":
        known = math.isinf(value) or abs(value) <= float(np.finfo(array.dtype).max)
    else:
        known = value.is_integer() and np.iinfo(array.dtype).min <= value <= np.iinfo(array.dtype).max
    return np.asarray(array == array.dtype.type(value)) if known else np.zeros(array.shape, bool)


def is_deep(content: bytes, name: str) -> bool:
    """Tell whether a file has more than a picture of bytes does: deeper numbers, or other channels than colours.

    Opacity counts as such. Raises BadInputError where that cannot be said of it.
    """
    if content.startswith(NUMPY) or is_dicom(content):
        return True
    if content.startswith(b"\xff\xd8\xff"):
        return False
    if content.startswith(TIFF):
        tags = read_tags(io.BytesIO(content))
        if tags is not None and (max(tags.get(BITSPERSAMPLE, (1,))) > 8 or max(tags.get(SAMPLEFORMAT, (1,))) != 1):
            return True
        try:
            return use_picture(content, name, _drops_no_band)
        except BadInputError:
            return tags is not None and tags.get(SAMPLESPERPIXEL, 1) > 1
    mode = use_picture(content, name, lambda image, name: image.mode)
    return mode.startswith(("I", "F")) or (is_deep_colour(content) and find_spec("imagecodecs") is not None)


def _drops_no_band(image: PillowImage.Image, name: str) -> bool:
    """Return False. Raises BadInputError where Pillow would drop bands of a TIFF or take one for opacity."""
    check_bands(image, name)
    return False


# --- formats --------------------------------------------------------------------------------------------------------


def is_deep_colour(content: bytes) -> bool:
    """Tell whether a file is a PNG of colours of 16 bits, which Pillow reads as 8."""
    return content.startswith(b"\x89PNG") and content[24:25] == b"\x10" and content[25:26] in (b"\2", b"\4", b"\6")


def _read_numpy(content: bytes, name: str, channels: int | None) -> Array:
    """Read an array (H, W), (channels, H, W) or (H, W, channels): the shorter of the outer axes has the channels."""
    try:
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject or dtype.names is not None:
            raise ValueError("Python objects or records, expected numbers")
        count = math.prod(shape)
        _require_size(count, dtype.itemsize, len(content), name)
        array = np.frombuffer(content, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")
    except BadInputError:
        raise
    except Exception as error:  # numpy fails as it likes on a damaged header
        raise BadInputError(f"{name}: not a valid NumPy array ({error}): remove or replace it") from error
    array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise BadInputError(f"{name}: an array of shape {shape}, expected (H, W), (channels, H, W) or (H, W, channels)")
    last = shape[2] < shape[0] if channels is None or shape[0] == shape[2] else shape[2] == channels != shape[0]
    return array.transpose(2, 0, 1) if last else array


def _require_size(count: int, itemsize: int, held: int, name: str) -> None:
    if count > MOST_VALUES or count * itemsize > max(MOST_HELD, held):
        raise BadInputError(
            f"{name}: {count} values, expected at most {min(MOST_VALUES, MOST_HELD // itemsize)}: cut it into pieces, "
            f"or set {MOST_HELD_SETTING}"
        )


def _read_tiff(content: bytes, name: str) -> Values:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are raised below
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            first, page = file.series[0], file.pages[0]
            axes, shape = str(first.axes), first.shape
            parts = [part for part in file.series if part.shape == shape and part.dtype == first.dtype]
            count, itemsize = math.prod(shape) * len(parts), first.dtype.itemsize if first.dtype else 8
            _require_size(count, itemsize, len(content), name)
            if max(shape, default=0) > LONGEST_SIDE:
                raise BadInputError(f"{name}: {shape} pixels, expected at most {LONGEST_SIDE} on a side: cut it")
            ends = (
                offset + length for part in parts for own in part.pages if own is not None
                for offset, length in zip(own.dataoffsets, own.databytecounts, strict=False)
            )  # fmt: skip
            if max(ends, default=0) > len(content):  # missing bytes would be read as zeros
                raise ValueError("its pixels are cut off")
            tag = page.tags.get(NO_DATA_TAG) if isinstance(page, tifffile.TiffPage) else None
            array = np.stack([part.asarray() for part in parts]) if len(parts) > 1 else first.asarray()
            axes = "I" + axes if len(parts) > 1 else axes
            if isinstance(page, tifffile.TiffPage) and page.photometric == 3 and page.colormap is not None:
                array, axes = _colour(array, page.colormap), axes + "S"
            inverted = isinstance(page, tifffile.TiffPage) and page.photometric == 0 and array.dtype.kind == "u"
    except BadInputError:
        raise
    except Exception as error:  # decoders raise anything on damaged files or missing packages
        what = describe_tiff(io.BytesIO(content)) or "a TIFF"
        hint = f": {EXTRA}" if find_spec("imagecodecs") is None else ": convert it, or remove it"
        raise BadInputError(f"{name}: cannot be read (it is {what}; {str(error)[:150]}){hint}") from error
    if inverted:  # 0 is white
        array = np.iinfo(array.dtype).max - array
    array = array.transpose([*(i for i, axis in enumerate(axes) if axis not in "YX"), axes.index("Y"), axes.index("X")])
    text = None if tag is None else str(tag.value).strip("\0 ")
    return Values(array.reshape(-1, *array.shape[-2:]), text or None)


def write_tiff(array: Array, no_data: str | None) -> bytes:
    """Write channels (C, H, W) as a TIFF of bands, which names the value that means that there is none.

    Raises BadInputError where tifffile is not there.
    """
    if find_spec("tifffile") is None:
        raise BadInputError(f"bands are packed as TIFF, which needs {EXTRA}")
    import tifffile

    tags = [] if no_data is None else [(NO_DATA_TAG, 2, len(no_data) + 1, no_data, True)]
    file = io.BytesIO()
    tifffile.imwrite(
        file, array if len(array) > 1 else array[0], photometric="minisblack", metadata=None, software=False,
        planarconfig="separate" if len(array) > 1 else None, extratags=tags,
    )  # fmt: skip
    return file.getvalue()


def _colour(index: Array, colormap: Array) -> Array:
    """Return the colours of a palette, (..., 3)."""
    return np.moveaxis(colormap[:, index], 0, -1)


def _read_png(content: bytes, name: str, channels: int | None) -> Array:
    """Read 16-bit colours; transparent parts lie on white, unless `channels` counts opacity."""
    import imagecodecs

    with PillowImage.open(io.BytesIO(content), formats=("PNG",)) as image:
        _require_size(math.prod(image.size) * 4, 2, len(content), name)
    try:
        array = np.moveaxis(imagecodecs.png_decode(content), -1, 0)
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"{name}: cannot be read ({str(error)[:150]}): remove or replace it") from error
    return array if len(array) % 2 or len(array) == channels else _lay_on_white(array)


def _lay_on_white(array: Array) -> Array:
    """Composite 16-bit grey or colours (C, H, W), of which the last is opacity, on white: (C - 1, H, W)."""
    white = np.uint32(np.iinfo(np.uint16).max)
    values, opacity = array[:-1].astype(np.uint32), array[-1:].astype(np.uint32)
    return np.asarray((values * opacity + white * (white - opacity) + white // 2) // white).astype(np.uint16)


def _read_picture(image: PillowImage.Image, name: str) -> Array:
    """Read what Pillow opens, band by band, upright."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("P", "PA", "1", "YCbCr", "LAB", "HSV"):
        if "transparency" in turned.info:
            turned = turned.convert("RGBA")
        turned = turned.convert("L" if turned.mode == "1" else "RGB")
    array = np.asarray(turned)
    if array.dtype == np.int32 and turned.mode == "I" and array.min() >= 0 and array.max() < 1 << 16:
        array = array.astype(np.uint16)  # 16 bits of PNG and PGM, which Pillow may keep in 32
    array = array.astype(array.dtype.newbyteorder("="))
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
