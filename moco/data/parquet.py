"""A Parquet file -> an Arrow file of its images and classes in the cache, made once, which is read by offset."""

import importlib
from pathlib import Path

from moco.data.archives import LARGEST_RATIO, LEAST_LIMIT, require_room
from moco.data.arrow import first_bytes, naming_damage, require_pyarrow
from moco.data.conversion import convert_once, identify_file
from moco.data.notes import Notes
from moco.data.roles import find_roles
from moco.runtime.files import require_regular

FOLDER = "tables"
"""Below the folder of the named data sets."""
ROWS = 64
"""Rows that are in memory at a time."""


def convert_parquet(path: Path) -> Path:
    """Return the Arrow file that holds what a Parquet file does; it is made at the first time, and that is said.

    It belongs to the file's place, size and time of change. Raises BadInputError where the file is damaged, holds no
    images, or is too large for the disk.
    """
    require_pyarrow(path)
    require_regular(path)
    size = path.stat().st_size

    def write(partial: Path, room: int) -> None:
        with naming_damage(path):
            _convert(path, partial, min(room, max(LEAST_LIMIT, LARGEST_RATIO * size)))

    facts = [identify_file(path)]
    return convert_once(path, FOLDER, f"{path.stem}.arrow", facts, "converting it", "cannot be converted", write)


def _convert(path: Path, target: Path, limit: int) -> None:
    """Write the columns of images and classes as an Arrow stream."""
    arrow, parquet = require_pyarrow(path), importlib.import_module("pyarrow.parquet")
    with parquet.ParquetFile(path) as file:

        def first(name: str) -> bytes:
            batch = next(file.iter_batches(batch_size=1, columns=[name]), None)
            return b"" if batch is None else first_bytes(batch.column(0))

        roles, size = find_roles(file.schema_arrow, str(path), first, Notes()), 0
        schema = arrow.schema([file.schema_arrow.field(name) for name in roles.columns], file.schema_arrow.metadata)
        with arrow.OSFile(str(target), "wb") as sink, arrow.ipc.new_stream(sink, schema) as writer:
            for batch in file.iter_batches(batch_size=ROWS, columns=roles.columns):
                size += batch.nbytes
                require_room(path, size, limit)
                writer.write_batch(batch.select(roles.columns))
