"""Files that are at every moment the old one or the new one, and reads that end."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moco.errors import BadInputError

if sys.platform != "win32":
    import fcntl

PARTIAL, TOKEN = ".part", 4
"""What is written aside is called `NAME.TOKEN.part`; the token has this many random bytes."""
LONGEST_START = 200
"""Bytes of a name that are kept in it: a file system takes 255."""
PIECE = 1 << 20
LARGEST_TEXT = 64 << 20
"""Largest size in bytes of a file of settings or figures."""
LARGEST_LIST = 4 << 30
"""Largest size in bytes of a list of files, enough for some ten million images."""


def home_folder() -> Path:
    """Return the user's home folder, or for a user without one a place in which no file can be written."""
    try:
        return Path.home()
    except RuntimeError:  # a number without an entry in the list of users, as containers run under
        return Path(os.devnull)


def expand_home(path: str) -> Path:
    """Expand a leading ~; for a user without a home folder it stays as it is."""
    return Path(os.path.expanduser(path))


def takes_files(folder: Path) -> bool:
    """Return whether files can be written in a folder, which may have to be made first."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK)
    except OSError:  # it lies in a folder of another user, or its name is too long
        return False


def require_file_name(flag: str, path: Path) -> None:
    """Raise BadInputError where no file of this name can be written, before anything long is computed for it."""
    if path.is_dir():
        raise BadInputError(f"{flag} {path}: that is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise BadInputError(f"{flag} {path}: that is not a regular file: give the name of one")
    if not takes_files(path.parent):
        raise BadInputError(f"{flag} {path}: no file can be written in {path.parent}: give another folder")


class _NoLocksError(OSError):
    """There are no locks here."""


@contextmanager
def written_aside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a new empty file, or folder, beside `path` to write to, which the caller renames to `path`.

    Its name is its own and it is locked, so that two writers never share it and each sees when another was killed:
    what such a one left is removed here. Where the caller fails, nothing of its own stays.
    """
    _remove_left_over(path)
    partial, descriptor = _claim(path, folder=folder)
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if folder:
        _remove(partial)


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` aside and rename it to `path`, so that it outlasts a loss of power.

    Where that fails the old file stays, and the OSError says the path and how many bytes were to be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as partial:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {len(content)} bytes ({reason})", str(path)) from error


def _claim(path: Path, *, folder: bool) -> tuple[Path, int | None]:
    """Make a file or a folder of a new name beside `path`, and lock it where there are locks."""
    start = os.fsdecode(os.fsencode(path.name)[:LONGEST_START])
    while True:
        partial = path.with_name(f"{start}.{secrets.token_hex(TOKEN)}{PARTIAL}")
        if folder:
            partial.mkdir()
        else:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            descriptor = _lock(partial)
        except _NoLocksError:  # nobody removes what others left
            return partial, None
        if descriptor is None:  # another writer removed it as a left-over
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(partial.stat(), os.fstat(descriptor)):
                return partial, descriptor
        os.close(descriptor)  # another writer took it for left over before it was locked


def _remove_left_over(path: Path) -> None:
    """Remove what killed writers of `path` left beside it: what nobody locks."""
    start = os.fsdecode(os.fsencode(path.name)[:LONGEST_START])
    ours = re.compile(rf"{re.escape(start)}\.[0-9a-f]{{{2 * TOKEN}}}{re.escape(PARTIAL)}")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            descriptor = _lock(path.with_name(name)) if ours.fullmatch(name) else None
            if descriptor is not None:
                _remove(path.with_name(name))
                os.close(descriptor)


def remove_unless_written(path: Path) -> None:
    """Remove a file; what `written_aside` gave a process that still writes to it stays. Raises OSError."""
    if path.suffix != PARTIAL:
        path.unlink(missing_ok=True)
        return
    try:
        descriptor = _lock(path)
    except _NoLocksError:
        path.unlink(missing_ok=True)
        return
    if descriptor is not None:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock a file or folder until the descriptor is closed; None where it is locked or gone.

    Raises _NoLocksError where this machine or its file system has no locks.
    """
    if sys.platform == "win32":
        raise _NoLocksError
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise _NoLocksError from error
    return descriptor


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def require_regular(path: Path) -> None:
    """Raise BadInputError where something lies there that is no regular file: to open a pipe may wait for ever."""
    if path.exists():
        _require_regular(path, path.stat())


def open_bounded(path: Path, largest: int = LARGEST_TEXT) -> BinaryIO:
    """Open a regular file of at most `largest` bytes for reading.

    Raises BadInputError for a pipe, a device or a socket, which might never end, for a folder, and for a larger file;
    OSError where it cannot be read.
    """
    _require_regular(path, path.stat())  # to open a device may do something
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)  # it may have been replaced meanwhile
        if status.st_size > largest:
            raise BadInputError(f"{path}: has {status.st_size} bytes, expected at most {largest}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Read a regular file of at most `largest` bytes whole; raises what `open_bounded` raises."""
    with open_bounded(path, largest) as file:
        content = file.read(os.fstat(file.fileno()).st_size + 1)  # reading `largest` takes memory for so many
        while len(content) <= largest and (piece := file.read(PIECE)):  # of /proc, where the size is said to be 0
            content += piece
    if len(content) > largest:
        raise BadInputError(f"{path}: has more than {largest} bytes")
    return content


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadInputError(f"{path}: expected a regular file, not a folder, a pipe, a socket or a device")


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a loss of power."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
