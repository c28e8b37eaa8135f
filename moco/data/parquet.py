"""A Parquet file -> an Arrow file of its images and classes in the cache, made once, which is read by offset."""

import contextlib
import hashlib
import importlib
import os
import shutil
import sys
from pathlib import Path

from moco.data.archives import LARGEST_RATIO, LEAST_LIMIT, require_room
from moco.data.arrow import first_bytes, naming_damage, require_pyarrow
from moco.data.named import data_home
from moco.data.notes import Notes
from moco.data.roles import find_roles
from moco.errors import BadInputError
from moco.runtime.files import require_regular, written_aside

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
    status = path.stat()
    facts = f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"
    key = hashlib.sha256(os.fsencode(facts)).hexdigest()[:16]
    target = data_home() / FOLDER / key / f"{path.stem}.arrow"
    if target.is_file():
        return target
    print(f"--data {path}: converting it once into {target}", file=sys.stderr, flush=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(target.parent).free
        with written_aside(target) as partial:
            with naming_damage(path):
                _convert(path, partial, min(room, max(LEAST_LIMIT, LARGEST_RATIO * status.st_size)))
            partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            target.parent.rmdir()
        if isinstance(error, OSError):
            raise BadInputError(
                f"--data {path}: cannot be converted into {target.parent} ({error.strerror or error}): set MOCO_DATA "
                f"to a folder with more room"
            ) from error
        raise
    return target


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
