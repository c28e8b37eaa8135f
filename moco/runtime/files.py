"""Files that are at every moment the old one or the new one."""

import contextlib
import os
from pathlib import Path

from moco.errors import BadInputError


def takes_files(folder: Path) -> bool:
    """Whether files can be written in a folder, which may have to be made first."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def require_file_name(flag: str, path: Path) -> None:
    """Raise BadInputError where no file of this name can be written, before anything long is computed for it."""
    if path.is_dir():
        raise BadInputError(f"{flag} {path}: that is a folder: give the name of a file")
    if not takes_files(path.parent):
        raise BadInputError(f"{flag} {path}: no file can be written in {path.parent}: give another folder")


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` aside and rename it to `path`, so that it outlasts a loss of power.

    Where that fails the old file stays, and the OSError says the path and how many bytes were to be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {len(content)} bytes ({reason})", str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a loss of power."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
