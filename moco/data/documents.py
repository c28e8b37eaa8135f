"""Documents instead of images: text files in folders, or one on each line of a file -> the documents of its splits."""

import contextlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from moco.data.channels import Values
from moco.data.foldernames import EXACT
from moco.data.forms import Form
from moco.data.images import MEMORY_BUDGET, NONE_KNOWN, Images, Labels, Marks, PathTable, Split
from moco.data.kinds import Exclude, is_archive, sniff
from moco.data.notes import Notes
from moco.data.opening import read_whole
from moco.data.search import Search, walk
from moco.errors import BadInputError, quote
from moco.runtime.files import expand_home
from moco.runtime.randomness import Integers
from moco.runtime.records import parse_json
from moco.shapes import Image

SHORTEST = 2
"""Bytes of the shortest document that gives two spans."""
BINARY = b"\0"
"""A byte that marks a file as binary: no text has it."""
LOOKED_AT = 4096
"""Bytes at the beginning of a file that decide whether it is text."""
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""UTF-16 begins so, whose lines do not end in a byte."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Document(NamedTuple):
    """A document, what it is called, and its class if it has one."""

    name: bytes
    label: bytes | None
    text: bytes


@dataclass
class Documents:
    """Documents in memory. They answer all that a set of images does; `encoded` gives the text."""

    in_memory: ClassVar[bool] = True
    unreadable: ClassVar[Mapping[int, str]] = NONE_KNOWN
    white_level: ClassVar[None] = None
    form: ClassVar[None] = None
    root: ClassVar[None] = None

    texts: PathTable
    names: PathTable
    labels: Labels | None = None
    classes: tuple[str, ...] = ()

    @property
    def name_table(self) -> PathTable:
        """Return the names."""
        return self.names

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Image:
        raise self._no_image(index)

    def _no_image(self, index: int) -> BadInputError:
        return BadInputError(f"{self.name(index)}: is a document, expected an image: give an --arch for documents")

    def name(self, index: int) -> str:
        """Return the path below the folder, or the line."""
        return self.names.name(index)

    def encoded(self, index: int) -> bytes:
        """Return the text."""
        return self.texts[index]

    def stack(self, index: Integers) -> None:
        """Return None: documents may have any length."""

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Raise BadInputError: a document has no channels."""
        raise self._no_image(index)

    def with_white_level(self, level: int) -> "Documents":
        """Return the set itself."""
        return self

    def with_form(self, form: Form) -> "Documents":
        """Return the set itself."""
        return self

    def identify(self, index: Integers) -> Marks:
        """Mark documents by the checksum of their text."""
        contents = np.fromiter((zlib.crc32(self.texts[row]) for row in index.tolist()), np.uint32)
        return Marks("Documents", contents, np.zeros(len(index), np.uint32))


@dataclass
class _Found:
    """What a folder or a file holds, and what is left out."""

    exclude: Exclude
    notes: Notes = field(default_factory=Notes)
    size: int = 0

    def take(self, name: bytes, label: bytes | None, text: bytes) -> Iterator[Document]:
        """Yield a document that is worth it."""
        text = text.strip()
        if self.exclude.patterns and self.exclude.fits_any_part(name):
            self.notes.skip("by --exclude")
        elif _name_other_kind(text) is not None:
            self.notes.skip("file(s) without text", os.fsdecode(name))
        elif len(text) < SHORTEST:
            self.notes.skip("empty document(s)", os.fsdecode(name))
        else:
            self.size += len(text)
            if self.size > MEMORY_BUDGET:
                raise BadInputError(
                    f"the documents have more than {MEMORY_BUDGET >> 30} GiB, and all must fit in memory: give fewer"
                )
            yield Document(name, label, text.replace(BINARY, b""))


def open_documents(data: str, exclude: Sequence[str] = ()) -> dict[Split, Images]:
    """Open a folder of text files, or a file with a document on each line.

    A folder may have train/, val/ and test/; where all files of a set lie in folders, the first one's name is the
    class. Files that hold no text are left out. In a file `.tsv` each line is a class, a tab and a document; in any
    other it is a document, or the path of one where the first line is that of a file; JSON and tables are refused.
    Raises BadInputError where there is no document.
    """
    path, found = expand_home(data), _Found(Exclude(exclude))
    sets: dict[Split, list[Document]]
    if path.is_dir():
        folders = {EXACT[name.lower()]: name for name in sorted(os.listdir(path)) if name.lower() in EXACT}
        if "train" in folders:
            sets = {split: list(_read_folder(path, folders[split], found)) for split in SPLITS if split in folders}
        else:
            sets = {"train": list(_read_folder(path, "", found))}
    elif path.is_file():
        sets = {"train": list(_read_lines(path, found))}
    elif path.exists():
        raise BadInputError(f"--data {data}: a pipe, socket or device, expected text files or documents on lines")
    else:
        raise BadInputError(f"--data {data}: no such folder or file, expected text files or documents on lines")
    empty = [split for split, documents in sets.items() if not documents]
    if empty:
        left_out = f" (left out: {found.notes.left_out})" if found.notes.skipped else ""
        raise BadInputError(f"--data {data}: no document in {empty[0]}{left_out}: expected files of text")
    found.notes.print(data, {split: len(documents) for split, documents in sets.items()}, kind="document")
    classes = sorted({document.label for document in sets["train"] if document.label is not None})
    return {split: _collect(documents, classes, f"{data} ({split})") for split, documents in sets.items()}


def _collect(documents: Sequence[Document], classes: Sequence[bytes], where: str) -> Documents:
    """Make a set, with labels where each document has a class. Raises BadInputError for one that train lacks."""
    number = {name: i for i, name in enumerate(classes)}
    unknown = next((one for one in documents if one.label is not None and one.label not in number), None)
    if unknown is not None and unknown.label is not None:
        raise BadInputError(f"--data {where}: class {quote(os.fsdecode(unknown.label))} is not in the train split")
    labels = [number[one.label] for one in documents if one.label is not None]
    whole = len(labels) == len(documents)
    return Documents(
        PathTable(one.text for one in documents),
        PathTable(one.name for one in documents),
        np.array(labels, np.int64) if whole else None,
        tuple(os.fsdecode(name) for name in classes) if whole else (),
    )


def _read_folder(root: Path, split: str, found: _Found) -> Iterator[Document]:
    """Read the files below a folder, or below its folder of a split, in the order of their paths' bytes."""
    top, prefix = os.fsencode(root / split), os.fsencode(f"{split}/" if split else "")
    for path in walk(Search(top, found.exclude, prefix, notes=found.notes, any_kind=True)):
        label, inside, _ = path.partition(b"/")
        yield from _read_file(top, path, label if inside else None, found)


def _read_file(top: bytes, path: bytes, label: bytes | None, found: _Found) -> Iterator[Document]:
    try:
        text = read_whole(os.fsdecode(os.path.join(top, path)))
    except BadInputError:
        text = None
    if text is None:
        found.notes.skip("file(s) that cannot be read", os.fsdecode(path))
    else:
        yield from found.take(path, label, text)


def _read_lines(path: Path, found: _Found) -> Iterator[Document]:
    content = _read_text(path)
    lines = [line for line in content.splitlines() if line.strip()]
    if path.suffix.lower() == ".tsv":
        for number, line in enumerate(lines, 1):
            label, tab, text = line.partition(b"\t")
            if not tab:
                raise BadInputError(f"--data {path}: line {number} has no tab: expected a class, a tab and a document")
            yield from found.take(b"line %d" % number, label.strip(), text)
    elif lines and len(lines[0]) < LOOKED_AT and (path.parent / os.fsdecode(lines[0].strip())).is_file():
        for line in sorted(line.strip() for line in lines):
            yield from _read_file(os.fsencode(path.parent), line, None, found)
    else:
        for number, line in enumerate(lines, 1):
            yield from found.take(b"line %d" % number, None, line)


def _read_text(path: Path) -> bytes:
    """Read a file of lines. Raises BadInputError where it is too large, or of a form whose lines are no documents."""
    content = read_whole(os.fspath(path), MEMORY_BUDGET)
    if content is None:
        size = path.stat().st_size
        raise BadInputError(
            f"--data {path}: has {size} bytes, and all documents must fit in {MEMORY_BUDGET >> 30} GiB: give fewer"
        )
    kind = _name_other_kind(content)
    if kind is not None:
        raise BadInputError(f"--data {path}: {kind}, expected text in UTF-8: convert or unpack it")
    if _is_json(content):
        raise BadInputError(f"--data {path}: JSON, expected a document on each line: write the texts alone")
    if path.suffix.lower() == ".csv":
        raise BadInputError(
            f"--data {path}: a table, expected a document on each line, or a .tsv of a class, a tab and a document"
        )
    return content


def _name_other_kind(content: bytes) -> str | None:
    """Say what a file is that is no text of bytes; None where it is text."""
    head = content[:LOOKED_AT]
    if head.startswith(WIDE):
        return "UTF-16"
    kind = sniff(head)
    return kind or "a binary file" if BINARY in head or is_archive(kind) else None


def _is_json(content: bytes) -> bool:
    """Tell whether a file, or its first line, is an object or a list of JSON."""
    text = content.strip()
    for part in (text.split(b"\n", 1)[0], text) if text.startswith((b"{", b"[")) else ():
        with contextlib.suppress(ValueError):
            parse_json(part)
            return True
    return False
