"""Converts data once into one file in the cache, beside the named data sets."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from moco.data.named import data_home
from moco.errors import BadInputError
from moco.runtime.files import written_aside


def identify_file(path: Path) -> str:
    """Describe a file's place, size and time of change: another file, or a changed one, is another text."""
    status = path.stat()
    return f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"


def convert_once(
    data: object, folder: str, name: str, facts: Sequence[str], doing: str, failed: str,
    write: Callable[[Path, int], None],
) -> Path:  # fmt: skip
    """Return the file `name` that `write` makes of `data`, below `folder` in the cache; the first time a line says so.

    It belongs to `facts`: others lead to another file. `write` takes the path to write to and the bytes for which the
    disk has room. Nothing stays of what fails. Raises BadInputError, with the words `failed`, where the disk fails.
    """
    key = hashlib.sha256(os.fsencode("\n".join(facts))).hexdigest()[:16]
    target = data_home() / folder / key / name
    if os.path.isfile(target):
        return target
    print(f"--data {data}: {doing} once into {target}", file=sys.stderr, flush=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(target) as partial:
            write(partial, shutil.disk_usage(target.parent).free)
            partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            target.parent.rmdir()
        if isinstance(error, OSError):
            raise BadInputError(
                f"--data {data}: {failed} into {target.parent} ({error.strerror or error}): set MOCO_DATA to a folder "
                f"with more room"
            ) from error
        raise
    return target
