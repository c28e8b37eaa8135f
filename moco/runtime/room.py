"""Files that may be computed again take limited room: those that were used longest ago are removed first."""

import contextlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from moco.runtime.files import remove_unless_written


def limit_room(files: Iterable[Path], most: int, spared: Collection[Path] = ()) -> None:
    """Remove those of the files that were used longest ago until the rest take at most `most` bytes.

    Spared ones are counted and stay, and so does what another process is writing. A file is used when `note_use` says
    so, or when it is written. Another process may do the same at the same time.
    """
    found = list[tuple[bool, float, int, Path]]()
    for path in files:
        with contextlib.suppress(OSError):  # another process removed it
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found.append((path in spared, status.st_mtime, status.st_size, path))
    room = most
    for stays, _, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0 and not stays:
            with contextlib.suppress(OSError):
                remove_unless_written(path)


def note_use(path: Path) -> None:
    """Note that a file is used now, where that may be written."""
    with contextlib.suppress(OSError):
        os.utime(path)
