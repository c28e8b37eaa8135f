"""The members of a tar file -> its images and their classes: WebDataset's samples, in any order, and class folders."""

import json
import os
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moco.data.columns import Column
from moco.data.images import Labels
from moco.data.kinds import HEAD, has_image_ending, is_readable, is_system, sniff, why_not_by_ending
from moco.data.notes import Notes
from moco.data.tar import Member, read_members
from moco.errors import BadInputError
from moco.runtime.files import open_bounded

CLASS_ENDING, JSON_ENDING = b"cls", b"json"
JSON_LABELS = ("label", "cls", "class", "target", "class_id", "label_id", "category", "class_name", "label_name")
"""Keys of a member KEY.json that may hold the class; the first one found counts."""
LONGEST_LABEL, LONGEST_JSON = 256, 1 << 16
PIECE = 1 << 20
LARGEST_MEMBER = 2**32 - 1
LARGEST_SHARD = 2**63 - 1
"""Bytes read at a time; the largest sizes of a member and of a shard."""
NO_CODE = -1


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

    def name(self, row: int) -> bytes:
        """Return the name of an image."""
        return bytes(self.names[self.ends[row] : self.ends[row + 1]])

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


@dataclass
class Group:
    """Members that follow each other and have one key: the path up to the first dot of its last part."""

    key: bytes = b""
    endings: set[bytes] = field(default_factory=set)
    """All that is behind the key's dot."""
    plain: list[Member] = field(default_factory=list)
    """Images KEY.jpg."""
    further: list[Member] = field(default_factory=list)
    """Images KEY.seg.png, or by their content only."""
    classes: dict[bytes, Member] = field(default_factory=dict)
    """What a member KEY.cls is of."""
    facts: dict[bytes, Member] = field(default_factory=dict)
    """What a member KEY.json is of."""


@dataclass
class Samples:
    """The images of shards, each with the code of its class in `texts`, or -1."""

    rows: Rows = field(default_factory=Rows)
    codes: "array[int]" = field(default_factory=lambda: array("q"))
    texts: dict[str, int] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    dropped: set[int] = field(default_factory=set)
    """Rows that turned out to lie beside an image of the same key."""

    def read_shard(self, shard: int, path: Path) -> None:
        """Read a shard through. Raises BadInputError where it is damaged or cannot be read."""
        try:
            with open_bounded(path, LARGEST_SHARD) as file:
                _Shard(self, shard, path, file.fileno()).read()
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error

    def code(self, text: str | None) -> int:
        """Give the number of a class."""
        return NO_CODE if text is None or text == "-1" else self.texts.setdefault(text, len(self.texts))

    def drop(self) -> None:
        """Leave out the rows that are dropped."""
        if not self.dropped:
            return
        rows, codes = Rows(), array("q")
        for row in range(len(self.rows)):
            if row not in self.dropped:
                member = Member(self.rows.name(row), self.rows.offset[row], self.rows.length[row])
                rows.add(self.rows.shard[row], member, self.rows.checksum[row])
                codes.append(self.codes[row])
        self.rows, self.codes, self.dropped = rows, codes, set()

    def labels(self) -> npt.NDArray[np.int64]:
        """Return the codes (n,)."""
        return np.frombuffer(self.codes, np.int64)


class _Shard:
    """One shard that is read: members whose key comes again later wait for what belongs to them."""

    def __init__(self, samples: Samples, shard: int, path: Path, descriptor: int) -> None:
        self.samples, self.shard, self.path, self.descriptor = samples, shard, path, descriptor
        self.notes = samples.notes
        self.unlabelled = dict[bytes, list[int]]()
        self.plain_keys, self.further_rows = set[bytes](), dict[bytes, list[int]]()
        self.classes = dict[bytes, int]()

    def read(self) -> None:
        """Read all members, group by group."""
        group = Group()
        for member in read_members(self.descriptor, str(self.path), self.notes):
            name = member.name.removeprefix(b"./")
            parts = name.split(b"/")
            if any(is_system(part) for part in parts):
                self.notes.skip("file(s) of an operating system in tar files")
                continue
            folder, slash, last = member.name.rpartition(b"/")
            stem, _, ending = last.partition(b".")
            if not stem or any(part.startswith(b".") and part not in (b".", b"..") for part in parts):
                if has_image_ending(last) or has_image_ending(b"x" + last):
                    self.notes.skip("hidden image(s) in tar files", os.fsdecode(member.name))
                continue
            key = folder + slash + stem
            if key != group.key or ending in group.endings:  # twice: tar files were joined between two samples
                self._close(group)
                group = Group(key)
            group.endings.add(ending)
            self._sort_in(group, member, ending.lower())
        self._close(group)
        self._match()

    def _sort_in(self, group: Group, member: Member, ending: bytes) -> None:
        last = ending.rpartition(b".")[2]
        stem = member.name[: -len(last) - 1]
        if last == CLASS_ENDING:
            group.classes[stem] = member
        elif last == JSON_ENDING:
            group.facts[stem] = member
        elif has_image_ending(member.name):
            (group.further if b"." in ending else group.plain).append(member)
        elif (reason := self._why_no_image(member)) is None:
            group.further.append(member)
        elif reason.startswith("HEIC"):
            self.notes.skip(reason)

    def _why_no_image(self, member: Member) -> str | None:
        reason = why_not_by_ending(member.name)
        if reason is not None:
            return reason
        head = os.pread(self.descriptor, min(HEAD, member.length), member.offset)
        return None if is_readable(sniff(head)) else "of another kind"

    def _close(self, group: Group) -> None:
        """Take the images of a group, and the classes that belong to them."""
        if not group.key:
            return
        images = [(member, True) for member in group.plain]
        for member in group.further:
            if group.plain and _is_field(member.name, group.key):
                self._leave_out(os.fsdecode(member.name))
            else:
                images.append((member, False))
        codes = {stem: self.samples.code(self._read_class(member)) for stem, member in group.classes.items()}
        used = set[bytes]()
        for member, plain in sorted(images, key=lambda image: image[0].offset):
            stem = _strip_ending(member.name)
            row, own = len(self.samples.rows), [key for key in (stem, group.key) if key in codes]
            if not own and (fact := group.facts.get(stem, group.facts.get(group.key))) is not None:
                codes[stem], own = self.samples.code(self._read_fact(fact)), [stem]
            used.update(own)
            self._add(member)
            self.samples.codes.append(codes[own[0]] if own else NO_CODE)
            if plain:
                self.plain_keys.add(group.key)
            elif _is_field(member.name, group.key):
                self.further_rows.setdefault(group.key, []).append(row)
            if not own:
                for key in {stem, group.key}:
                    self.unlabelled.setdefault(key, []).append(row)
        if not images:
            facts = {stem: self.samples.code(self._read_fact(fact)) for stem, fact in group.facts.items()}
            codes = {**facts, **codes}
        self.classes.update({stem: code for stem, code in codes.items() if stem not in used})

    def _match(self) -> None:
        """Give images without a class one that stands elsewhere in the shard, and drop what lies beside others."""
        for key, code in self.classes.items():
            for row in self.unlabelled.get(key, ()):
                if self.samples.codes[row] == NO_CODE:
                    self.samples.codes[row] = code
        for key, rows in self.further_rows.items():
            if key in self.plain_keys:
                for row in rows:
                    self._leave_out(os.fsdecode(self.samples.rows.name(row)))
                    self.samples.dropped.add(row)

    def _leave_out(self, name: str) -> None:
        self.notes.skip("beside the image of the same key in tar files", name)

    def _add(self, member: Member) -> None:
        if member.length > LARGEST_MEMBER:
            raise BadInputError(f"{self.path} ({os.fsdecode(member.name)}): {member.length} bytes, which is no image")
        named = Member(os.fsencode(self.path.name) + b"/" + member.name, member.offset, member.length)
        self.samples.rows.add(self.shard, named, self._compute_checksum(member))

    def _compute_checksum(self, member: Member) -> int:
        """Compute the CRC-32 of a member, in pieces: its size is whatever the header says."""
        checksum, stop = 0, member.offset + member.length
        for start in range(member.offset, stop, PIECE):
            checksum = zlib.crc32(os.pread(self.descriptor, min(PIECE, stop - start), start), checksum)
        return checksum

    def _read_class(self, member: Member) -> str:
        if member.length > LONGEST_LABEL:
            raise BadInputError(
                f"{self.path} ({os.fsdecode(member.name)}): a class of {member.length} bytes, expected a number or a "
                f"name"
            )
        return os.fsdecode(os.pread(self.descriptor, member.length, member.offset).strip())

    def _read_fact(self, member: Member) -> str | None:
        """Read the class in a member KEY.json; None where there is none."""
        if member.length > LONGEST_JSON:
            return None
        try:
            facts = json.loads(os.pread(self.descriptor, member.length, member.offset))
        except (ValueError, RecursionError):
            return None
        return _label_in(facts) if isinstance(facts, dict) else None


def _label_in(facts: Mapping[str, object]) -> str | None:
    value = next((facts[name] for name in JSON_LABELS if name in facts), None)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip()[:LONGEST_LABEL] or None if known else None


def _strip_ending(name: bytes) -> bytes:
    """A member's name without its last ending."""
    folder, slash, last = name.rpartition(b"/")
    stem, dot, _ = last.rpartition(b".")
    return folder + slash + (stem if dot else last)


def _is_field(name: bytes, key: bytes) -> bool:
    """Tell whether what stands between key and last ending names a field of a sample (`seg`), not an image (`0`)."""
    middle = name[len(key) + 1 :].rpartition(b".")[0]
    return not middle or middle[:1].isalpha()
