"""Arrow tables, as Hugging Face's `datasets` keeps them -> the index of their images, which are read by offset.

The bytes of an image lie in such a file as they are, one image behind the other, so the file serves as a shard.
"""

import errno
import importlib
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.data.images import Labels
from moco.data.indexing import Indexed
from moco.data.labels import number_classes
from moco.data.notes import Notes
from moco.data.roles import Roles, describe_paths, find_roles
from moco.data.samples import LARGEST_MEMBER, NO_CODE, Rows
from moco.data.tar import Member
from moco.errors import BadInputError, one_line
from moco.runtime.files import require_regular
from moco.runtime.progress import show_progress

FILE_FORMAT = b"ARROW1"
"""How a file begins that is no stream of Arrow."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of writing, where nothing is wrong with the table."""
ROW_DIGITS = 7
WITHOUT = "row(s) without an image"


def require_pyarrow(data: str | Path) -> Any:
    """Import pyarrow. Raises BadInputError where it is not installed."""
    if find_spec("pyarrow") is None:
        raise BadInputError(f"--data {data}: a table needs pyarrow: pip install 'momentum-contrast[table]'")
    return importlib.import_module("pyarrow")


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Raise BadInputError naming the file where pyarrow cannot read it."""
    arrow = require_pyarrow(path)
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, BadInputError) or getattr(error, "errno", None) in NO_ROOM:
            raise
        first = one_line(str(error).strip().partition("\n")[0])
        raise BadInputError(f"--data {path}: cannot be read as a table ({first}): get it again") from error


def index_arrow(paths: Sequence[Path]) -> Indexed:
    """Read Arrow files through: where their images lie, and their classes; there are no parts.

    Images are numbered by file and row. The classes are those of a ClassLabel, in its own order; other columns of
    classes are numbered as lists are. Where a row has none (-1, or nothing), the set has no labels.
    """
    table = _Table(str(paths[0] if len(paths) == 1 else paths[0].parent))
    for number, path in show_progress(enumerate(paths), "indexing tables", len(paths)):
        with naming_damage(path):
            table.read(number, path)
    if not len(table.rows):
        raise BadInputError(f"--data {table.where}: no image in it: {table.notes.left_out or 'it has no rows'}")
    return table.rows, *table.number_labels(), [], table.notes


class _Table:
    """The rows of the files of one table while they are collected."""

    def __init__(self, where: str) -> None:
        self.where, self.notes, self.rows = where, Notes(), Rows()
        self.roles: Roles | None = None
        self.codes: array[int] = array("q")
        self.texts = dict[str, int]()

    def read(self, number: int, path: Path) -> None:
        """Read one file through. Raises BadInputError and pyarrow's errors where it is damaged."""
        arrow = require_pyarrow(path)
        require_regular(path)
        with arrow.memory_map(str(path)) as source:
            content = source.read_buffer()
            reader, row = _open(arrow, content), 0
            for batch in reader:
                if self.roles is None or (row == 0 and number):
                    self._settle(batch, path)
                self._take(batch, number, path, content, row)
                row += batch.num_rows

    def number_labels(self) -> tuple[Labels | None, tuple[str, ...]]:
        """Turn the classes of all rows into labels and the names of the classes."""
        codes: npt.NDArray[np.int64] = np.frombuffer(self.codes, np.int64)
        if self.roles is None or self.roles.label is None or not len(codes):
            return None, ()
        lacking = int((codes < 0).sum())
        if 0 < lacking < len(codes):
            self.notes.remark(f"{lacking} of {len(codes)} rows have no class in {self.roles.label}: so no labels")
        if self.roles.classes is None or lacking:
            return number_classes(codes, list(self.texts))
        if codes.max() >= len(self.roles.classes):
            raise BadInputError(
                f"--data {self.where}: column {self.roles.label} has class {codes.max()}, expected one of 0 to "
                f"{len(self.roles.classes) - 1}, for which it has names: get it again"
            )
        return codes, self.roles.classes

    def _settle(self, batch: Any, path: Path) -> None:
        """Find the columns, which must be the same in all files."""
        roles = find_roles(batch.schema, self.where, lambda name: first_bytes(batch.column(name)), self.notes)
        if self.roles is not None and roles != self.roles:
            raise BadInputError(
                f"--data {self.where}: {path.name} has other columns of images and classes than the files before it "
                f"({roles.columns} and {self.roles.columns}): give tables of one kind"
            )
        self.roles = roles

    def _take(self, batch: Any, number: int, path: Path, content: Any, row: int) -> None:
        """Take the images of a batch whose first row has the number `row` in its file."""
        assert self.roles is not None
        arrow = require_pyarrow(path)
        images, paths = _unfold(arrow, batch.column(self.roles.image))
        images.validate(full=True)
        starts, ends, there = _places(images, content, path)
        labels = None if self.roles.label is None else batch.column(self.roles.label).to_pylist()
        view, names = memoryview(content), [None] * len(images) if paths is None else paths.to_pylist()
        for place, (start, end, name) in enumerate(zip(starts, ends, names, strict=True)):
            if not there[place] or start == end:
                if name:
                    raise BadInputError(describe_paths(str(path), self.roles.image))
                self.notes.skip(WITHOUT)
                continue
            if end - start > LARGEST_MEMBER:
                raise BadInputError(f"--data {path}: row {row + place} has {end - start} bytes: remove it")
            member = Member(_name(path, row + place, name), start, end - start)
            self.rows.add(number, member, zlib.crc32(view[start:end]))
            self.codes.append(NO_CODE if labels is None else self._code(labels[place]))

    def _code(self, value: object) -> int:
        assert self.roles is not None
        if value is None or value == -1:
            return NO_CODE
        if self.roles.classes is not None:
            return int(value) if isinstance(value, int) else NO_CODE
        return self.texts.setdefault(str(value), len(self.texts)) if value != "-1" else NO_CODE


def _open(arrow: Any, content: Any) -> Iterator[Any]:
    """Yield the batches of a file or a stream of Arrow."""
    if memoryview(content)[: len(FILE_FORMAT)] == FILE_FORMAT:
        file = arrow.ipc.open_file(content)
        return (file.get_batch(number) for number in range(file.num_record_batches))
    return iter(arrow.ipc.open_stream(content))


def first_bytes(column: Any) -> bytes:
    """Return the first file in a column of bytes, or of bytes and path; nothing where there is none."""
    for value in column.slice(0, 100).to_pylist():
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
    return b""


def _unfold(arrow: Any, column: Any) -> tuple[Any, Any | None]:
    """Part a column into its bytes, and its paths where there are some."""
    if not arrow.types.is_struct(column.type):
        return column, None
    column.validate(full=True)
    fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    paths = fields.get("path")
    return fields["bytes"], paths if paths is not None and "string" in str(paths.type) else None


def _places(images: Any, content: Any, path: Path) -> tuple[list[int], list[int], npt.NDArray[np.bool_]]:
    """Say where in the file the bytes of each row begin and end, and which rows have any."""
    there = images.is_valid().to_numpy(zero_copy_only=False)
    _, offsets, data = images.buffers()
    if data is None or offsets is None or not data.size:
        return [0] * len(images), [0] * len(images), np.zeros(len(images), np.bool_)
    kind = np.int64 if str(images.type).startswith("large") else np.int32
    ends = np.frombuffer(offsets, kind)[images.offset : images.offset + len(images) + 1].astype(np.int64)
    begin = data.address - content.address
    if not 0 <= begin <= begin + data.size <= content.size:
        raise BadInputError(f"--data {path}: a compressed Arrow file: save it without compression, or as Parquet")
    return (ends[:-1] + begin).tolist(), (ends[1:] + begin).tolist(), there


def _name(path: Path, row: int, inside: str | None) -> bytes:
    """Name an image by its file and row, and by the last part of the path that the table gives it."""
    last = (inside or "").replace("\\", "/").rpartition("/")[2]
    name = f"{path.stem}/{row:0{ROW_DIGITS}d}{f'-{last}' if last else ''}"
    return os.fsencode(name.replace("\0", "").encode("utf-8", "replace").decode())
