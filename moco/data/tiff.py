"""Reads the bands of a TIFF and their number types from its tags, also if Pillow cannot read it."""

import io
from contextlib import suppress
from typing import Any

from PIL import Image as PillowImage
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from moco.data.opening import BinaryFile
from moco.errors import BadInputError, counted

COLOURS = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3}
"""Bands of RGB, CMYK, YCbCr and L*a*b* in a TIFF; grey and palette have one."""
NUMBERS = {
    1: "unsigned integers",
    2: "signed integers",
    3: "floating point",
    5: "complex integers",
    6: "complex numbers",
}
"""Values of the tag SampleFormat; 4 is undefined."""
COMPRESSIONS = COMPRESSION_INFO | {34712: "jpeg2000", 34887: "lerc", 50000: "zstd", 50001: "webp", 50002: "jpegxl"}
MOST_PARTLY = 0.5
"""Share of a fourth band that may be neither 0 nor 255 if it is opacity: a mask has soft edges. Near infra-red, which
some programs tag as opacity, has hardly a pixel at either end."""


def describe_tiff(file: BinaryFile) -> str | None:
    """Describe bands, numbers and compression of a TIFF; None where it is none, or its tags are damaged."""
    tags = read_tags(file)
    if tags is None:
        return None
    compression = COMPRESSIONS.get(tags.get(COMPRESSION, 1), tags.get(COMPRESSION))
    packed = "" if compression == "raw" else f", compression {compression}"
    return f"a TIFF of {describe_bands(tags)}{packed}"


def read_tags(file: BinaryFile) -> ImageFileDirectory_v2 | None:
    """Read the tags of a TIFF's first page; None where it is none, or they are damaged."""
    with suppress(Exception):
        file.seek(0)
        header = file.read(8)
        if header[2] == 43:  # BigTIFF has a longer one
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        return tags
    return None


def count_pages(content: bytes) -> int:
    """Count the pages of a TIFF that have the size of the first; 1 for other files, and for damaged ones."""
    count = 1
    if content.startswith((b"II", b"MM")):
        with suppress(Exception), PillowImage.open(io.BytesIO(content), formats=("TIFF",)) as image:
            first = image.size
            for page in range(1, getattr(image, "n_frames", 1)):
                image.seek(page)
                count += image.size == first  # others are previews
    return count


def describe_bands(tags: Any) -> str:
    """Say how many bands there are, and of what numbers: "13 bands of 16-bit unsigned integers"."""
    bands = tags.get(SAMPLESPERPIXEL, 1)
    bits = max(tags.get(BITSPERSAMPLE, (1,)))
    numbers = NUMBERS.get(max(tags.get(SAMPLEFORMAT, (1,))), "undefined numbers")
    colours = " that are not marked as RGB" if bands > 2 and tags.get(PHOTOMETRIC_INTERPRETATION, 0) in (0, 1) else ""
    return f"{counted(bands, 'band')} of {bits}-bit {numbers}{colours}"


def is_unsigned(image: PillowImage.Image) -> bool:
    """Tell whether a TIFF says that its numbers are unsigned; Pillow reads 32 bits as signed."""
    return isinstance(image, TiffImageFile) and max(image.tag_v2.get(SAMPLEFORMAT, (1,))) == 1


def check_bands(image: PillowImage.Image, name: str) -> None:
    """Refuse a TIFF with further bands, which Pillow drops or takes for opacity; other formats pass."""
    if not isinstance(image, TiffImageFile):
        return
    tags = image.tag_v2
    bands, extra = tags.get(SAMPLESPERPIXEL, 1), tags.get(EXTRASAMPLES, ())
    bits, white_is_0 = max(tags.get(BITSPERSAMPLE, (1,))), tags.get(PHOTOMETRIC_INTERPRETATION) == 0
    if (bits == 8 and max(tags.get(SAMPLEFORMAT, (1,))) == 2) or (bits > 8 and white_is_0):  # Pillow ignores both
        found = describe_bands(tags) + (" in which 0 is white" if white_is_0 else "")
        raise BadInputError(f"{name}: {found}, expected unsigned integers in which 0 is black: convert it to RGB")
    opacity = len(extra) == 1 and extra[0] in (1, 2)
    if bands > COLOURS.get(tags.get(PHOTOMETRIC_INTERPRETATION, 0), 1) + opacity:
        raise BadInputError(
            f"{name}: {describe_bands(tags)}, expected grey, RGB, or RGB with opacity: convert it to RGB"
        )
    if opacity and image.mode in ("LA", "RGBA"):
        counts = image.getchannel("A").histogram()
        if sum(counts[1:255]) > MOST_PARTLY * sum(counts):
            raise BadInputError(
                f"{name}: {bands} bands, of which the last is tagged as opacity and looks like a picture (near "
                f"infra-red?): leave it out (convert to RGB), or write real opacity as PNG"
            )
