"""Images by integer index: files in a folder or a list, or an array in memory or mapped from disk."""

import io
import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.TiffImagePlugin import EXTRASAMPLES, PHOTOMETRIC_INTERPRETATION, SAMPLESPERPIXEL, TiffImageFile

from moco.errors import BadInputError
from moco.shapes import Bytes, Image

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are taken for images, in any case."""

SMALL_IMAGE = 96
"""Images of one size up to this side are held in memory ..."""
MEMORY_BUDGET = 2 << 30
"""... where they fit into this many bytes, and no more than these, and one in a hundred, cannot be decoded."""
UNREADABLE_HELD = 100

TIFF_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3}
"""Bands of RGB, CMYK, YCbCr and L*a*b* in a TIFF; grey and palette have one."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may be, whatever it is called. Pillow would read more, and have EPS drawn by another program."""

Labels = npt.NDArray[np.int64]
Split = Literal["train", "val", "test"]


@runtime_checkable
class Images(Protocol):
    """A set of images, each named by an integer."""

    labels: Labels | None
    """The class of each image; None without labels."""
    classes: tuple[str, ...]
    """The names of the classes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image:
        """The decoded image (3, H, W)."""

    def name(self, index: int) -> str:
        """What a person calls the image: a path, or a number."""


@runtime_checkable
class Named(Protocol):
    """What has a name for each integer."""

    def name(self, index: int) -> str:
        """What a person calls it."""


@runtime_checkable
class Encoded(Protocol):
    """Images that lie in an image format and can be had as such."""

    def encoded(self, index: int) -> bytes:
        """The file of an image, as it lies on disk."""


class PathTable:
    """Many paths in two flat arrays, in memory or mapped from disk: one string of bytes, and where each path ends."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        ends, text = array("q", [0]), bytearray()
        for path in paths:
            text += path
            ends.append(len(text))
        self.text, self.ends = np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64)

    @classmethod
    def over(cls, text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> "PathTable":
        """The table of n paths whose arrays are already there; `ends` is (n + 1,) and begins with 0."""
        table = cls(())
        table.text, table.ends = text, ends
        return table

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.text[self.ends[index] : self.ends[index + 1]].tobytes()

    def name(self, index: int) -> str:
        """A path as text."""
        return os.fsdecode(self[index])


@dataclass
class FileImages:
    """Images decoded from files when they are asked for."""

    root: bytes
    paths: PathTable
    labels: Labels | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return decode(os.path.join(self.root, self.paths[index]))

    def encoded(self, index: int) -> bytes:
        """The file of an image. Raises BadInputError where it cannot be read."""
        path = os.path.join(self.root, self.paths[index])
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise BadInputError(f"{os.fsdecode(path)}: cannot be read ({error.strerror}): remove it") from error

    def name(self, index: int) -> str:
        """The path below the root."""
        return self.paths.name(index)


@dataclass
class ArrayImages:
    """Images of one size, (n, 3, H, W) bytes, in memory or mapped from disk (where they must not be written to)."""

    pixels: Bytes
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    names: Named | None = None
    """What the images were called before, such as the set that they were decoded from."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """The images that could not be decoded, and why; their pixels are black."""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image:
        if index in self.unreadable:
            raise BadInputError(self.unreadable[index])
        return self.pixels[index]

    def name(self, index: int) -> str:
        """As where it came from, or its number."""
        return self.names.name(index) if self.names is not None else f"#{index}"


@dataclass
class Subset:
    """Some images of a set, in the given order."""

    images: Images
    rows: Labels

    def __post_init__(self) -> None:
        self.labels = None if self.images.labels is None else self.images.labels[self.rows]
        self.classes = self.images.classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image:
        return self.images[int(self.rows[index])]

    def name(self, index: int) -> str:
        """As in the whole set."""
        return self.images.name(int(self.rows[index]))


def evenly(images: Images, count: int) -> Images:
    """`count` images spread evenly over the set, or all of them."""
    if len(images) <= count:
        return images
    return Subset(images, np.linspace(0, len(images) - 1, count).astype(np.int64))


def hold(images: Images) -> Images:
    """Decode small images of one size once, into memory; leave others to be decoded whenever they are asked for.

    What cannot be decoded is noted; where that is much, nothing is held.
    """
    if isinstance(images, ArrayImages):
        return images
    pixels: torch.Tensor | None = None
    unreadable = dict[int, str]()
    for index in range(len(images)):
        try:
            image = images[index]
        except BadInputError as error:
            unreadable[index] = str(error)
            if len(unreadable) > UNREADABLE_HELD + index // 100:
                return images
            continue
        if pixels is None:
            if max(image.shape[1:]) > SMALL_IMAGE or len(images) * image.numel() > MEMORY_BUDGET:
                return images
            pixels = torch.zeros((len(images), *image.shape), dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            return images
        pixels[index] = image
    if pixels is None:
        return images
    return ArrayImages(pixels, images.labels, images.classes, names=images, unreadable=unreadable)


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


def _decode(source: str | io.BytesIO, name: str) -> Image:
    try:
        with PillowImage.open(source, formats=FORMATS) as file:
            return from_pillow(file, name)
    except BadInputError:
        raise
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"{name}: cannot be read as an image ({error}): remove or replace it") from error


def from_pillow(image: PillowImage.Image, name: str) -> Image:
    """What `decode` makes of a file that Pillow has opened; errors call it `name`."""
    _check_bands(image, name)
    rgb = _to_rgb(ImageOps.exif_transpose(image), name)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _check_bands(file: PillowImage.Image, name: str) -> None:
    """Pillow drops a TIFF's further bands, or takes a fourth one for opacity."""
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
