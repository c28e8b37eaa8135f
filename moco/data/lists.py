"""A text list of paths -> its images: a path on each line, or a table with a column of paths."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moco.data.images import FileImages, PathTable
from moco.data.kinds import Exclude, word_set
from moco.data.labels import number_classes
from moco.data.lookup import Finder
from moco.data.notes import Notes
from moco.errors import BadInputError, quote
from moco.runtime.files import LARGEST_LIST, read_bounded

PATH_NAMES = word_set(
    "path paths file files filename filenames file_name filepath file_path image images img image_path img_path "
    "image_name imagename image_file image_id id name fname url uri"
)
"""What the head of a column of paths is called."""
LABEL_NAMES = word_set(
    "label labels class classes class_name classname category category_name target cls y class_id label_name"
)
SEPARATORS = ("\t", ",", ";", "|", " ")
BLANK = " \t\n\r\x0b\x0c"
NO_LABEL = -1
UTF_16, UTF_32 = (b"\xff\xfe", b"\xfe\xff"), (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
"""Marks at the beginning of a text."""


class Row(NamedTuple):
    """A line of a list: the file that it means, and what stands beside it."""

    path: str
    label: str | None
    columns: int
    line: str = ""
    """The line, where the path is written otherwise in it."""


def open_list(path: Path, exclude: Exclude, notes: Notes) -> FileImages:
    """Open a text list: a path on each line, relative to the list's folder; empty lines and `# comments` do not count.

    Lines may be quoted, and have a label behind a comma, a tab or a space: then the images have labels. A path that is
    not there as it is written is looked for in other spellings. Raises BadInputError for one that is not found.
    """
    lines = [line.strip(BLANK) for line in re.split(r"\r\n|\r|\n", read_list(path))]
    finder = Finder(os.fspath(path.parent))
    rows = list(_read_rows(path, [line for line in lines if line], finder, notes))
    if not rows:
        raise BadInputError(f"--data {path}: no path in it, expected one on each line")
    _require_one_line_each(path, rows)
    kept = [row for row in rows if not exclude.fits_any_part(os.fsencode(row.path))]
    if len(kept) < len(rows):
        notes.skip("by --exclude", count=len(rows) - len(kept))
    if not kept:
        raise BadInputError(f"--data {path}: --exclude leaves none of its {len(rows)} images")
    kept.sort(key=lambda row: os.fsencode(row.path))
    texts: dict[str, int] = {}
    codes = np.array([NO_LABEL if row.label in (None, "-1") else texts.setdefault(str(row.label), len(texts))
                      for row in kept], np.int64)  # fmt: skip
    labels, classes = number_classes(codes, list(texts))
    if labels is None and (codes >= 0).any():
        notes.remark(f"{int((codes < 0).sum())} of {len(kept)} lines have no label, so there are no labels")
    elif labels is None and max(row.columns for row in kept) > 1:
        notes.remark("only the column of paths is used: there is no column that is called label or class")
    return FileImages(os.fsencode(path.parent), PathTable(os.fsencode(row.path) for row in kept), labels, classes)


def read_list(path: Path) -> str:
    """Read a list as text: UTF-8, UTF-16, UTF-32, or bytes that stand for names as they are.

    Raises BadInputError where it is no text.
    """
    try:
        content = read_bounded(path, LARGEST_LIST)
    except OSError as error:
        raise BadInputError(f"--data {path}: cannot be read ({error.strerror})") from error
    head = content[:4096]
    wide = "utf-32" if content.startswith(UTF_32) else "utf-16" if content.startswith(UTF_16) else ""
    if not wide and head.count(b"\0") >= len(head) // 3 > 0:
        wide = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    if wide:
        with suppress(UnicodeDecodeError):
            text = content.decode(wide)
            if "\0" not in text:
                return text
    if b"\0" in head:
        raise BadInputError(
            f"--data {path}: a binary file of a kind that is not known, expected a folder of images, a text list of "
            f"paths, or a tar file"
        )
    return content.decode("utf-8-sig", "surrogateescape")


def _read_rows(path: Path, lines: Sequence[str], finder: Finder, notes: Notes) -> Iterator[Row]:
    """Yield what each line means that names an image; a line with the heads of columns comes first, if there is one."""
    heads: list[str] = []
    otherwise, first = 0, ""
    if len(lines) == 1:
        _require_one_path(path, lines[0], finder)
    for number, line in enumerate(lines):
        if number == 0:
            heads = _read_heads(line) if finder.find(line) is None else []
            if heads:
                continue
        found = finder.find(line) if not line.startswith("#") else (line if _is_there(finder, line) else "")
        if found == "":
            continue
        row = Row(found, None, 1) if found is not None else _split(line, heads, finder)
        if row is None:
            raise BadInputError(
                f"--data {path}: lists {quote(line)}, which is not a file{_explain(finder, line)}: expected paths that "
                f"are absolute or begin in {path.parent}"
            )
        if not re.search(r"(?<![\w./\\])" + re.escape(row.path), line):
            otherwise, first = otherwise + 1, first or f"{quote(line)} is {quote(row.path)}"
            row = row._replace(line=line)
        yield row
    if otherwise:
        notes.remark(f"{otherwise} of its paths are written otherwise than on disk, and were found ({first})")


def _require_one_path(path: Path, line: str, finder: Finder) -> None:
    """Raise BadInputError where the only line of a list names several files, of which one would be read."""
    for separator in () if _is_there(finder, line) else SEPARATORS:
        columns = [column.strip(BLANK) for column in _columns(line, separator)]
        named = [column for column in columns if os.path.splitext(column)[1] and finder.find(column)]
        if len(named) > 1:
            raise BadInputError(f"--data {path}: one line that names {len(named)} files, expected a line for each")


def _is_there(finder: Finder, line: str) -> bool:
    return os.path.isfile(os.path.join(finder.folder, line))


def _explain(finder: Finder, line: str) -> str:
    return " but a folder" if os.path.isdir(os.path.join(finder.folder, line)) else ""


def _read_heads(line: str) -> list[str]:
    """Read the column names in lower case; nothing if none names a column of paths."""
    for separator in SEPARATORS:
        heads = [head.strip(BLANK).lower().replace(" ", "_") for head in _columns(line, separator)]
        if PATH_NAMES & set(heads):
            return heads
    return []


def _columns(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _split(line: str, heads: list[str], finder: Finder) -> Row | None:
    """Read a line in quotes or of several columns; None where no column is the path of a file."""
    if line[0] == line[-1] == "'":
        line = line[1:-1]
        if (found := finder.find(line)) is not None:
            return Row(found, None, 1)
    for separator in SEPARATORS:
        columns = [column.strip(BLANK).strip("'") for column in _columns(line, separator)]
        while columns and not columns[-1]:
            columns.pop()
        if separator == " " and len(columns) > 1:  # the path may hold spaces, too
            parts = line.rsplit(None, 1)
            if (found := finder.find(parts[0])) is not None:
                return Row(found, parts[1], 2)
        for place in _places_of_paths(columns, heads):
            found = finder.find(columns[place]) if columns[place] else None
            if found is not None:
                return Row(found, _label(columns, heads, place), len(columns))
    return None


def _places_of_paths(columns: list[str], heads: list[str]) -> list[int]:
    """Find the columns that may hold the path: by name, else the first, or the one after a number."""
    named = [i for i, head in enumerate(heads[: len(columns)]) if head in PATH_NAMES]
    numbered = len(columns) > 1 and columns[0].isdigit()
    return named or ([1] if numbered else [0][: len(columns)])


def _label(columns: list[str], heads: list[str], path: int) -> str | None:
    """Return the label in a line, from the column with such a name, or the only other one."""
    if heads:
        named = [i for i, head in enumerate(heads[: len(columns)]) if head in LABEL_NAMES and i != path]
        return columns[named[0]] if named and columns[named[0]] else None
    return columns[1 - path] if len(columns) == 2 and path < 2 else None


def _require_one_line_each(path: Path, rows: Sequence[Row]) -> None:
    """Raise BadInputError where a path that is written otherwise leads to the file of another line."""
    lines: dict[str, str] = {}
    for row in rows:
        if row.line and lines.setdefault(row.path, row.line) != row.line:
            _refuse_two(path, lines[row.path], row)
    for row in rows if lines else ():
        if not row.line and row.path in lines:
            _refuse_two(path, lines[row.path], row)


def _refuse_two(path: Path, line: str, row: Row) -> None:
    raise BadInputError(
        f"--data {path}: lists {quote(line)} and {quote(row.line or row.path)}, and only {quote(row.path)} is there: "
        f"expected paths that are absolute or begin in {path.parent}"
    )
