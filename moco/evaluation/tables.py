"""Features as files that numpy, a spreadsheet or a data frame reads, without executing anything."""

import csv
import importlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from moco.data.images import Labels
from moco.errors import BadInputError
from moco.runtime.files import written_aside

ROWS_AT_A_TIME = 4096
COLUMNS = ("path", "split", "label")
SHAPE = b"shape"
"""Key in the metadata of a .parquet file: the shape of an image's features, as numbers with blanks between them."""


@dataclass(frozen=True)
class Table:
    """Features of N images and what stands beside them; the features may be mapped from the disk."""

    features: npt.NDArray[Any]
    """(N, C), or maps (N, C, h, w)."""
    paths: Sequence[str]
    splits: Sequence[str]
    labels: Labels
    """-1 without one."""
    classes: tuple[str, ...]

    def label(self, row: int) -> str:
        """Name the class of an image; an empty text where it has none."""
        return self.classes[self.labels[row]] if self.labels[row] >= 0 else ""


def require_writer(path: Path) -> None:
    """Raise BadInputError where no writer knows the ending of --out, or what it needs is not installed."""
    if path.suffix not in WRITERS:
        raise BadInputError(f"--out {path}: expected a name that ends in {', '.join(WRITERS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise BadInputError(f"--out {path}: .parquet needs pyarrow: pip install 'momentum-contrast[table]'")


def write_features(path: Path, table: Table) -> None:
    """Write a table in the format that the ending of `path` names, so that the file is the old one or the new one.

    What is in memory does not grow with the images. Raises BadInputError where it cannot be written.
    """
    if path.suffix == ".npy":
        with _replaced(path.with_suffix(".index.csv")) as file:
            _write_csv(file, table, features=False)
    with _replaced(path) as file:
        WRITERS[path.suffix](file, table)


def _write_npz(file: BinaryIO, table: Table) -> None:
    """Arrays by name; no pickled object is in it."""
    arrays = {
        "features": table.features, "labels": table.labels, "paths": np.array(table.paths, np.str_),
        "splits": np.array(table.splits, np.str_), "classes": np.array(table.classes, np.str_),
    }  # fmt: skip
    np.savez(file, allow_pickle=False, **arrays)


def _write_npy(file: BinaryIO, table: Table) -> None:
    """The features alone, which numpy maps into memory."""
    np.save(file, table.features, allow_pickle=False)


def _write_csv(file: BinaryIO, table: Table, *, features: bool = True) -> None:
    """A row for each image: path, split, label (a class's name, or empty) and the numbers f0 to f(C-1)."""
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    writer, width = csv.writer(text, lineterminator="\n"), table.features.shape[1] if features else 0
    writer.writerow([*COLUMNS, *(f"f{column}" for column in range(width))])
    for row, (path, split) in enumerate(zip(table.paths, table.splits, strict=True)):
        numbers = map(str, table.features[row]) if features else ()  # the shortest text that gives the same fp32 back
        writer.writerow([path, split, table.label(row), *numbers])
    text.flush()
    text.detach()


def _write_parquet(file: BinaryIO, table: Table) -> None:
    """A row for each image: path, split, label (null where there is none), and `features`, a list of fixed length.

    What is not UTF-8 in a name is escaped: Parquet knows only text.
    """
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    shape = table.features.shape[1:]
    width, text = int(np.prod(shape)), arrow.string()
    columns = [*((name, text) for name in COLUMNS), ("features", arrow.list_(arrow.float32(), width))]
    schema = arrow.schema(columns, metadata={SHAPE: " ".join(map(str, shape)).encode()})
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(table.paths), ROWS_AT_A_TIME):
            rows = range(start, min(start + ROWS_AT_A_TIME, len(table.paths)))
            numbers = np.ascontiguousarray(table.features[rows.start : rows.stop]).reshape(-1)
            parts = [
                arrow.array([_as_utf8(table.paths[row]) for row in rows], text),
                arrow.array([table.splits[row] for row in rows], text),
                arrow.array([_as_utf8(table.label(row)) or None for row in rows], text),
                arrow.FixedSizeListArray.from_arrays(arrow.array(numbers), width),
            ]
            writer.write_table(arrow.Table.from_arrays(parts, schema=schema))


def _as_utf8(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """Give a file beside `path` that takes its place when it is whole. Raises BadInputError where that fails."""
    try:
        with written_aside(path) as partial:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise BadInputError(f"--out {path}: cannot be written ({error.strerror})") from error


WRITERS: dict[str, Callable[[BinaryIO, Table], None]] = {
    ".npz": _write_npz, ".csv": _write_csv, ".npy": _write_npy, ".parquet": _write_parquet,
}  # fmt: skip
"""The ending of --out -> what writes it."""
