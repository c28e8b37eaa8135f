"""Tar shards -> the index of their images: built once by reading them through, kept beside them or in the cache."""

import os
import re
import warnings
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moco.data import columns
from moco.data.columns import Column
from moco.data.images import EXTENSIONS, Labels
from moco.data.shards import ShardImages, describe, from_index, open_index
from moco.data.tar import Member, read_members
from moco.errors import BadInputError
from moco.runtime.progress import show_progress

INDEX_FOLDER = ".moco-index"
"""The folder beside shards that others made."""
LABEL = b"cls"
LONGEST_LABEL = 256
PIECE = 1 << 20
LARGEST_MEMBER = 2**32 - 1

_ENDINGS = {ending[1:].encode() for ending in EXTENSIONS}


class Rows:
    """The rows of an index while they are collected, in flat arrays: 28 bytes and the name for each image."""

    def __init__(self) -> None:
        self.shard, self.offset, self.length, self.checksum = array("i"), array("q"), array("I"), array("I")
        self.names, self.ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self.shard)

    def add(self, shard: int, member: Member, checksum: int) -> None:
        """Add an image, by the place of its bytes and its name."""
        self.shard.append(shard)
        self.offset.append(member.offset)
        self.length.append(member.length)
        self.checksum.append(checksum)
        self.names += member.name
        self.ends.append(len(self.names))

    def columns(self, labels: Labels | None) -> dict[str, Column]:
        """Return the columns that `moco.data.shards.COLUMNS` lists."""
        return {
            "shard": np.frombuffer(self.shard, np.int32),
            "offset": np.frombuffer(self.offset, np.int64),
            "length": np.frombuffer(self.length, np.uint32),
            "checksum": np.frombuffer(self.checksum, np.uint32),
            "labels": np.zeros(0, np.int64) if labels is None else labels,
            "names": np.frombuffer(self.names, np.uint8),
            "name_ends": np.frombuffer(self.ends, np.int64),
        }


def open_shards(paths: Sequence[Path], label: str) -> ShardImages:
    """Open the images in shards of one folder, through the index called `label`, which is built where there is none.

    An index belongs to shards of the same names, sizes and times of change. Raises BadInputError for a damaged shard,
    and where there is no image.
    """
    beside = paths[0].parent / INDEX_FOLDER / label
    places = (beside, columns.cache_place(beside))
    for place in places:
        images = open_index(place, paths, times=True)
        if images is not None:
            return images
    before = describe(paths)
    rows, labels, classes = index_shards(paths)
    if describe(paths) != before:
        raise BadInputError(f"--data {paths[0].parent}: the shards changed while they were indexed: try again")
    if not len(rows):
        raise BadInputError(
            f"--data {paths[0].parent}: no image in its tar files, expected members ending in {' '.join(EXTENSIONS)}"
        )
    arrays = rows.columns(labels)
    _keep(places, arrays, {"shards": before, "classes": list(classes)})
    return from_index(paths, before, arrays, classes)


def _keep(places: Sequence[Path], arrays: dict[str, Column], facts: columns.Facts) -> None:
    for place in places:
        try:
            columns.save_columns(place, arrays, facts)
        except OSError as error:
            reason = error.strerror
        else:
            return
    warnings.warn(f"the index cannot be kept in {places[0]} nor {places[1]} ({reason})", stacklevel=3)


def index_shards(paths: Sequence[Path]) -> tuple[Rows, Labels | None, tuple[str, ...]]:
    """Read shards through: where their images lie, and the classes that members KEY.cls give to images KEY.*.

    The key of a member is its path up to the first dot of the last part, as in WebDataset. Classes are numbers, or
    names, which are then numbered in the order of their bytes; if an image has none, the set has none.
    """
    rows, codes, texts = Rows(), array("q"), dict[bytes, int]()
    for shard, path in show_progress(enumerate(paths), "indexing shards", len(paths)):
        try:
            with path.open("rb") as file:
                _index_shard(shard, path, file.fileno(), rows, codes, texts)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error
    return rows, *_number_classes(np.frombuffer(codes, np.int64), list(texts))


def _index_shard(
    shard: int, path: Path, descriptor: int, rows: Rows, codes: "array[int]", texts: dict[bytes, int]
) -> None:
    key, code = b"", -1
    for member in read_members(descriptor, str(path)):
        folder, slash, last = member.name.rpartition(b"/")
        stem, _, ending = last.partition(b".")
        if not stem or not ending:  # hidden, or of no kind
            continue
        if folder + slash + stem != key:
            codes.extend([code] * (len(rows) - len(codes)))
            key, code = folder + slash + stem, -1
        if ending.lower() == LABEL:
            text = _read_label(descriptor, member, path)
            code = -1 if text == b"-1" else texts.setdefault(text, len(texts))
        elif ending.rpartition(b".")[2].lower() in _ENDINGS:
            if member.length > LARGEST_MEMBER:
                raise BadInputError(f"{path} ({os.fsdecode(member.name)}): {member.length} bytes, which is no image")
            named = Member(os.fsencode(path.name) + b"/" + member.name, member.offset, member.length)
            rows.add(shard, named, _compute_checksum(descriptor, member))
    codes.extend([code] * (len(rows) - len(codes)))


def _read_label(descriptor: int, member: Member, path: Path) -> bytes:
    if member.length > LONGEST_LABEL:
        raise BadInputError(
            f"{path} ({os.fsdecode(member.name)}): a class of {member.length} bytes, expected a number or a name"
        )
    return os.pread(descriptor, member.length, member.offset).strip()


def _compute_checksum(descriptor: int, member: Member) -> int:
    """Compute the CRC-32 of a member, in pieces: its size is whatever the header says."""
    checksum, stop = 0, member.offset + member.length
    for start in range(member.offset, stop, PIECE):
        checksum = zlib.crc32(os.pread(descriptor, min(PIECE, stop - start), start), checksum)
    return checksum


def _number_classes(codes: Labels, texts: list[bytes]) -> tuple[Labels | None, tuple[str, ...]]:
    """Turn codes in the order of appearance into labels and the names of the classes."""
    if not len(codes) or codes.min() < 0:
        return None, ()
    if all(re.fullmatch(rb"[0-9]{1,6}", text) for text in texts):
        numbers = np.array([int(text) for text in texts], np.int64)
        return numbers[codes], tuple(str(i) for i in range(int(numbers.max()) + 1))
    names = sorted(texts)
    rank = {text: i for i, text in enumerate(names)}
    return np.array([rank[text] for text in texts], np.int64)[codes], tuple(os.fsdecode(name) for name in names)
