"""Images by integer index: files in a folder or a list, or an array in memory or mapped from disk."""

import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from moco.data.decoding import decode
from moco.errors import BadInputError
from moco.shapes import Bytes, Image

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are taken for images, in any case."""

SMALL_IMAGE = 96
"""Images of one size up to this side are held in memory ..."""
MEMORY_BUDGET = 2 << 30
"""... where they fit into this many bytes, and no more than these, and one in a hundred, cannot be decoded."""
UNREADABLE_HELD = 100

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
