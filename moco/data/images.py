"""Images by integer index: what every set of them can do, and two kinds: files, and an array in memory."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from moco.data.channels import Values, combine, read_channels, to_channels
from moco.data.decoding import WHITEST, decode
from moco.data.forms import Form
from moco.data.opening import MOST_HELD, MOST_HELD_SETTING, read_whole
from moco.data.paths import Named as Named
from moco.data.paths import PathTable as PathTable
from moco.errors import BadInputError
from moco.runtime.randomness import Integers, Words
from moco.shapes import Bytes, Image

EXTENSIONS = (
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jif", ".jp2", ".jpc", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Endings of image files, in any case."""

SMALL_IMAGE = 96
"""Images of one size are held in memory where no side is longer than this."""
MEMORY_BUDGET = 2 << 30
"""They must fit into this many bytes."""
MOST_UNREADABLE = 100
"""A set may have so many unreadable images, and one more for every hundred."""
NONE_KNOWN: Mapping[int, str] = MappingProxyType({})
"""Marks a set that was not searched for unreadable images."""

Labels = npt.NDArray[np.int64]
Split = Literal["train", "val", "test", "unlabeled"]
"""Pre-training takes `train` and, behind it, `unlabeled`; evaluations take the other three."""


class Marks(NamedTuple):
    """What tells n images from others without decoding them; a changed image has another content or time."""

    kind: str
    """The kind of set; fingerprints of two kinds cannot be compared."""
    contents: Words
    """(n,): CRC-32 of a file's size, of the bytes in a shard, or of the pixels in memory."""
    times: Words
    """(n,): CRC-32 of a file's time of change in nanoseconds; 0 where there is no file."""


@runtime_checkable
class Images(Named, Protocol):
    """A set of images, each named by an integer.

    Sets that are made of other sets answer all of this for their own images, so that nobody has to know a set's kind.
    """

    labels: Labels | None
    """The class of each image; None without labels."""
    classes: tuple[str, ...]
    """The names of the classes."""

    @property
    def in_memory(self) -> bool:
        """Return whether all pixels are in memory (or a mapped file) and all images have one size."""

    @property
    def white_level(self) -> int | None:
        """Return the value of 16-bit files that became white; None if none was chosen: then the largest is."""

    @property
    def form(self) -> Form | None:
        """Return the form of images with channels at full depth; None for RGB bytes."""

    @property
    def root(self) -> bytes | None:
        """Return the folder that the names are relative to; None if the images are not files of one folder."""

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Return the images known to be unreadable, and why; reading may find more."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image:
        """Decode the image (3, H, W), or its channels (C, H, W). Raises BadInputError where it cannot be read."""

    def name(self, index: int) -> str:
        """Return what a person calls the image: a path, or a number."""

    def encoded(self, index: int) -> bytes | None:
        """Read the image's file; None where it has none. Raises BadInputError where it cannot be read."""

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read the channels of the image's file, before a form is settled. Raises BadInputError where it has none."""

    def stack(self, index: Integers) -> Bytes | None:
        """Take the images of `index` as one tensor, the unreadable with any pixels; None unless `in_memory`."""

    def with_white_level(self, level: int) -> "Images":
        """Return the set with files of 16 bits scaled so that `level` becomes white; pixels in memory stay."""

    def with_form(self, form: Form) -> "Images":
        """Return the set with files read as channels at full depth; pixels in memory stay."""

    def identify(self, index: Integers) -> Marks:
        """Mark the images of `index`. Raises nothing: a missing image has marks too."""


@dataclass
class FileImages:
    """Images decoded from files when they are asked for."""

    in_memory: ClassVar[bool] = False
    unreadable: ClassVar[Mapping[int, str]] = NONE_KNOWN

    root: bytes
    paths: PathTable
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    white_level: int | None = None
    form: Form | None = None
    bands: tuple[PathTable, ...] = ()
    """The files of each image, a table a band, where it lies in several; `paths` then say what images are called."""

    @property
    def name_table(self) -> PathTable:
        """Return the paths below the root."""
        return self.paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        if self.form is not None:
            return to_channels(self.read_values(index, self.form.channels), self.form, self.files(index)[0])
        return decode(os.path.join(self.root, self.paths[index]), self.white_level or WHITEST)

    def files(self, index: int) -> list[str]:
        """Return the path of an image's file, or of each of its bands."""
        return [os.fsdecode(os.path.join(self.root, table[index])) for table in self.bands or (self.paths,)]

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read all channels of an image as they are in its files. Raises BadInputError where they cannot be read."""
        parts, files = list[Values](), self.files(index)
        for file in files:
            content = read_whole(file)
            if content is None:
                raise BadInputError(f"{file}: has more than {MOST_HELD} bytes: cut it up, or set {MOST_HELD_SETTING}")
            parts.append(read_channels(content, file, channels if len(files) == 1 else None))
        return combine(parts, files)

    def encoded(self, index: int) -> bytes | None:
        """Read the file of an image, or its bands' one behind the other; None where that is larger than files are held.

        Such are decoded from disk. Raises BadInputError where it cannot be read.
        """
        contents = [read_whole(file) for file in self.files(index)]
        return None if None in contents else b"".join(content for content in contents if content is not None)

    def name(self, index: int) -> str:
        """Return the path below the root."""
        return self.paths.name(index)

    def stack(self, index: Integers) -> None:
        """Return None: files may have any size."""

    def with_white_level(self, level: int) -> "FileImages":
        """Return the set with another white level."""
        return replace(self, white_level=level)

    def with_form(self, form: Form) -> "FileImages":
        """Return the set as channels."""
        return replace(self, form=form)

    def identify(self, index: Integers) -> Marks:
        """Mark files by size and time of change; those of a missing file are 0."""
        marks = Marks("FileImages", np.zeros(len(index), np.uint32), np.zeros(len(index), np.uint32))
        for place, row in enumerate(index.tolist()):
            for file in self.files(row):
                try:
                    status = os.stat(os.fsencode(file))
                except OSError:
                    continue
                size, time = status.st_size.to_bytes(8, "little"), status.st_mtime_ns.to_bytes(9, "little", signed=True)
                marks.contents[place] = zlib.crc32(size, int(marks.contents[place]))
                marks.times[place] = zlib.crc32(time, int(marks.times[place]))
        return marks


def as_files(images: Images) -> FileImages | None:
    """Return the set itself where each of its images is a file of its own; None else."""
    return images if isinstance(images, FileImages) else None


@dataclass
class ArrayImages:
    """Images of one size, (n, 3, H, W) bytes or (n, C, H, W) channels, in memory or mapped from disk.

    Those that are mapped must not be written to.
    """

    in_memory: ClassVar[bool] = True
    root: ClassVar[None] = None

    pixels: Bytes
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    names: Named | None = None
    """The names of the images, such as the set that they were decoded from; else they are numbers."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """The images that could not be decoded, and why; their pixels are black."""
    white_level: int | None = None
    form: Form | None = None

    @property
    def name_table(self) -> PathTable | None:
        """Return the table of `names`."""
        return None if self.names is None else self.names.name_table

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image:
        if index in self.unreadable:
            raise BadInputError(self.unreadable[index])
        return self.pixels[index]

    def name(self, index: int) -> str:
        """Return the image's name in `names`, or its number."""
        return self.names.name(index) if self.names is not None else f"#{index}"

    def encoded(self, index: int) -> None:
        """Return None: there are only pixels."""

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Raise BadInputError: there are only pixels."""
        raise BadInputError(f"image {index}: bytes of RGB in memory, which have no file to read channels from")

    def stack(self, index: Integers) -> Bytes:
        """Take the images of `index` (n, 3, H, W); those that are unreadable are black."""
        return self.pixels[torch.from_numpy(index)]

    def with_white_level(self, level: int) -> "ArrayImages":
        """Return the set itself."""
        return self

    def with_form(self, form: Form) -> "ArrayImages":
        """Return the set with another mean and deviation where it has channels, and else itself."""
        return self if self.form is None else replace(self, form=form)

    def identify(self, index: Integers) -> Marks:
        """Mark images by the checksum of their pixels."""
        pixels = (np.ascontiguousarray(self.pixels[row].numpy()) for row in index.tolist())
        contents = np.fromiter((zlib.crc32(image.data) for image in pixels), np.uint32)
        return Marks("ArrayImages", contents, np.zeros(len(index), np.uint32))


def see(images: Images, row: int) -> Image:
    """Return an image as people see it: bytes of RGB (3, H, W). Raises BadInputError where it cannot be read."""
    image = images[row]
    return image if images.form is None else images.form.show(image)


def hold(images: Images) -> Images:
    """Decode small images of one size once, into memory; leave others to be decoded whenever they are asked for.

    What cannot be decoded is noted; where that is much, nothing is held.
    """
    if images.in_memory:
        return images
    pixels: torch.Tensor | None = None
    unreadable = dict[int, str]()
    for index in range(len(images)):
        try:
            image = images[index]
        except BadInputError as error:
            unreadable[index] = str(error)
            if len(unreadable) > MOST_UNREADABLE + index // 100:
                return images
            continue
        if pixels is None:
            if max(image.shape[1:]) > SMALL_IMAGE or len(images) * image.nbytes > MEMORY_BUDGET:
                return images
            pixels = torch.zeros((len(images), *image.shape), dtype=image.dtype)
        if image.shape != pixels.shape[1:]:
            return images
        pixels[index] = image
    if pixels is None:
        return images
    return ArrayImages(
        pixels, images.labels, images.classes, names=images, unreadable=unreadable, white_level=images.white_level,
        form=images.form,
    )  # fmt: skip
