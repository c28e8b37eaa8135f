"""Images in uncompressed tar shards (WebDataset layout): read by offset through an index of flat arrays."""

import os
import weakref
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from moco.data import columns
from moco.data.channels import Values, read_channels, to_channels
from moco.data.columns import Column
from moco.data.decoding import WHITEST, decode_bytes
from moco.data.forms import Form
from moco.data.images import NONE_KNOWN, Labels, Marks, PathTable
from moco.data.opening import MOST_HELD, MOST_HELD_SETTING
from moco.data.stalls import watch_read
from moco.errors import TOO_MANY_OPEN, BadInputError
from moco.runtime.randomness import Integers
from moco.shapes import Image

COLUMNS = {
    "shard": "i4",
    "offset": "i8",
    "length": "u4",
    "checksum": "u4",
    "labels": "i8",
    "names": "u1",
    "name_ends": "i8",
}
"""An index has a row for each image: its shard's number, its place there, the CRC-32 of its bytes, label and name."""

Described = list[str | int]
"""A shard's name, size in bytes, and time of change in nanoseconds."""

KEPT_OPEN = 256
"""So many shards stay open: opening one costs a round trip on network file systems, and descriptors are limited."""
SHARE_KEPT = 4
"""Never more than one in so many of the descriptors that the process may have."""


@dataclass
class ShardImages:
    """Images decoded from members of tar shards when they are asked for, each checked against its checksum."""

    in_memory: ClassVar[bool] = False
    root: ClassVar[None] = None
    unreadable: ClassVar[Mapping[int, str]] = NONE_KNOWN

    paths: Sequence[Path]
    sizes: Sequence[int]
    """Bytes of each shard when it was indexed."""
    arrays: dict[str, Column]
    classes: tuple[str, ...] = ()
    labels: Labels | None = None
    white_level: int | None = None
    form: Form | None = None
    _open: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.names = PathTable.from_arrays(self.arrays["names"], self.arrays["name_ends"])
        weakref.finalize(self, _close, self._open)

    def __reduce__(self) -> tuple[object, ...]:  # open files stay in this process
        values = (self.paths, self.sizes, self.arrays, self.classes, self.labels, self.white_level, self.form)
        return ShardImages, values

    def __len__(self) -> int:
        return len(self.arrays["offset"])

    def __getitem__(self, index: int) -> Image:
        if self.form is not None:
            return to_channels(self.read_values(index, self.form.channels), self.form, self._describe(index))
        return decode_bytes(self.encoded(index), self._describe(index), self.white_level or WHITEST)

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read all channels of an image as they are in its file. Raises BadInputError where they cannot be read."""
        return read_channels(self.encoded(index), self._describe(index), channels)

    @property
    def name_table(self) -> PathTable:
        """Return the names in the index."""
        return self.names

    def name(self, index: int) -> str:
        """Return the name in the index: of the file that was packed, or shard and member."""
        return self.names.name(index)

    def encoded(self, index: int) -> bytes:
        """Read the file of an image. Raises BadInputError where the shard is not what was indexed."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, offset, length, checksum = (
            int(self.arrays[column][index]) for column in ("shard", "offset", "length", "checksum")
        )
        if not (0 <= shard < len(self.paths) and 0 <= offset <= offset + length <= self.sizes[shard]):
            raise BadInputError(f"{self._describe(index)}: the index is damaged: remove it, or pack again")
        if length > MOST_HELD:
            raise BadInputError(
                f"{self._describe(index)}: has {length} bytes, expected at most {MOST_HELD}: remove or replace it, or "
                f"set {MOST_HELD_SETTING}"
            )
        content = self._read(shard, offset, length, index)
        if len(content) < length or zlib.crc32(content) != checksum:
            raise BadInputError(
                f"{self._describe(index)}: its bytes are not those that were indexed (another checksum): "
                f"the shard is damaged, get it again"
            )
        return content

    def stack(self, index: Integers) -> None:
        """Return None: the files may have any size."""

    def with_white_level(self, level: int) -> "ShardImages":
        """Return the set with another white level."""
        return replace(self, white_level=level)

    def with_form(self, form: Form) -> "ShardImages":
        """Return the set as channels."""
        return replace(self, form=form)

    def identify(self, index: Integers) -> Marks:
        """Mark files by their checksums in the index."""
        return Marks("ShardImages", self.arrays["checksum"][index], np.zeros(len(index), np.uint32))

    def _read(self, shard: int, offset: int, length: int, index: int) -> bytes:
        descriptor = self._open.get(shard)
        try:
            if descriptor is None:
                descriptor = self._open_shard(shard)
                if len(self._open) < most_kept_open():
                    kept = self._open.setdefault(shard, descriptor)
                    if kept != descriptor:  # another thread was faster
                        os.close(descriptor)
                        descriptor = kept
            try:
                size = os.fstat(descriptor).st_size
                if size != self.sizes[shard]:
                    raise BadInputError(
                        f"{self._describe(index)}: the shard has {size} bytes, and had {self.sizes[shard]} when it was "
                        f"indexed: it was changed or cut off, get it again"
                    )
                with watch_read(self.paths[shard]):
                    return os.pread(descriptor, length, offset)
            finally:
                if self._open.get(shard) != descriptor:
                    os.close(descriptor)
        except OSError as error:
            if error.errno in TOO_MANY_OPEN:  # nothing is wrong with the image
                raise
            raise BadInputError(f"{self._describe(index)}: cannot be read ({error.strerror})") from error

    def _open_shard(self, shard: int) -> int:
        """Open a shard; where there are too many open files, without those that were kept open."""
        flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)  # it may be a pipe by now
        try:
            return os.open(self.paths[shard], flags)
        except OSError as error:
            if error.errno not in TOO_MANY_OPEN or not self._open:
                raise
            while self._open:
                os.close(self._open.popitem()[1])
            return os.open(self.paths[shard], flags)

    def _describe(self, index: int) -> str:
        """Write the shard and the image's name, for messages."""
        shard = int(self.arrays["shard"][index])
        path = self.paths[shard] if 0 <= shard < len(self.paths) else "?"
        return f"{path} ({self.names.name(index)})"


def open_limit() -> int:
    """Return how many files this process may have open."""
    try:
        import resource
    except ImportError:  # not on Windows
        return KEPT_OPEN * SHARE_KEPT
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return KEPT_OPEN * SHARE_KEPT if limit == resource.RLIM_INFINITY else limit


def most_kept_open() -> int:
    """Return how many shards may stay open in this process."""
    return min(KEPT_OPEN, open_limit() // SHARE_KEPT)


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def open_index(place: Path, paths: Sequence[Path], *, times: bool) -> ShardImages | None:
    """Open the images of an index in `place`; None where there is none, or it belongs to other shards.

    Shards are known by name and size, with `times` by their time of change too.
    """
    stored = columns.load_columns(place, COLUMNS)
    if stored is None:
        return None
    arrays, facts = stored
    if (
        len({len(arrays[name]) for name in ("shard", "offset", "length", "checksum")} | {len(arrays["name_ends"]) - 1})
        > 1
    ):
        return None
    if not columns.labels_fit(arrays["labels"], len(arrays["offset"]), facts.get("classes", [])):
        return None
    now, was = describe(paths), facts.get("shards")
    known = 3 if times else 2
    if not isinstance(was, list) or [shard[:known] for shard in was] != [shard[:known] for shard in now]:
        return None
    return from_index(paths, now, arrays, facts.get("classes", ()))


def from_index(
    paths: Sequence[Path], shards: Sequence[Described], arrays: dict[str, Column], classes: Sequence[str]
) -> ShardImages:
    """Make the set of an index that is in memory or mapped from disk."""
    labels = arrays["labels"] if len(arrays["labels"]) else None
    return ShardImages(paths, [int(shard[1]) for shard in shards], arrays, tuple(classes), labels)


def describe(paths: Sequence[Path]) -> list[Described]:
    """Read name, size and time of change of each shard."""
    status = [(path.name, path.stat()) for path in paths]
    return [[name, shard.st_size, shard.st_mtime_ns] for name, shard in status]
