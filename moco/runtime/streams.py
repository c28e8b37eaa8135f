"""What is printed: one line each of warnings and failures; where nothing can be written it is dropped."""

import errno
import io
import os
import select
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from moco.errors import one_line
from moco.runtime.signals import is_asked_to_stop

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIECE = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512
"""Bytes that a pipe takes at once where it takes any."""
LOADER = "torch.utils.data.dataloader"
"""The module whose objects fail to end where they half began."""
LOOK_EVERY = 0.5
"""Seconds between two looks whether the process is asked to end while nobody reads what it prints."""


class Forgiving(io.RawIOBase):
    """A stream that drops what it cannot write: its reader is gone (`| head`), its disk full, its terminal closed.

    Where nobody reads from a full pipe it waits, but not after a request to stop.
    """

    def __init__(self, raw: io.FileIO, owner: object) -> None:
        self._raw, self._owner, self.lost = raw, owner, 0  # the owner closes it
        """The error number of the first failure."""

    def writable(self) -> bool:
        """Return True: it takes whatever comes."""
        return True

    def fileno(self) -> int:
        """Return the stream's own number."""
        return self._raw.fileno()

    def isatty(self) -> bool:
        """Return whether a person reads it."""
        return self._raw.isatty()

    def write(self, content: "ReadableBuffer", /) -> int:
        """Write at most a piece of it; say how much is done with."""
        piece = memoryview(content).cast("B")[:PIECE]
        if self.lost or not self._wait():
            return len(piece)
        try:
            return self._raw.write(piece) or 0
        except OSError as error:
            self.lost = error.errno or errno.EIO
            return len(piece)

    def _wait(self) -> bool:
        """Wait until the stream takes something; false where the process is to end before."""
        while sys.platform != "win32" and not select.select([], [self.fileno()], [], LOOK_EVERY)[1]:
            if is_asked_to_stop():
                return False
        return True


def open_closed_streams() -> None:
    """Open what a process was started without (`>&-`): files of its own would take the numbers of the streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - it stays open
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def forgive(stream: Any) -> Any:
    """The stream by lines, in any encoding, and dropping what cannot be written; what is no file stays as it is.

    An accented name must not end a run on an ASCII terminal, and a pipe must not keep lines back for minutes.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace", line_buffering=True)
    raw = getattr(stream.buffer, "raw", stream.buffer)  # itself with PYTHONUNBUFFERED
    if not isinstance(raw, io.FileIO):
        return stream
    own = io.TextIOWrapper(
        io.BufferedWriter(Forgiving(raw, stream)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
    vars(own)["mode"] = getattr(stream, "mode", "w")  # as open() leaves it
    return own


def why_lost(stream: object) -> str:
    """Say why what was printed is lost; nothing where it is not, or its reader wanted no more."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    number = raw.lost if isinstance(raw, Forgiving) else 0
    return "" if number in (0, errno.EPIPE) else os.strerror(number)


def speak_in_lines() -> None:
    """Print warnings, and what fails in a library's thread or while an object is removed, as one line each."""
    warnings.showwarning, threading.excepthook = _show_warning, _show_failed_thread
    sys.unraisablehook = _show_failed_end


def _show_failed_end(failed: "sys.UnraisableHookArgs") -> None:
    """Tell in one line what failed while an object was removed; nothing where torch half began its loading.

    That has ended the command by another error, which says why.
    """
    if getattr(failed.object, "__module__", "") != LOADER:
        said = one_line(failed.exc_value or failed.exc_type.__name__)
        print(f"moco: warning: {failed.err_msg or 'ignored'}: {said}", file=sys.stderr)


def _show_failed_thread(failed: threading.ExceptHookArgs) -> None:
    """Tell in one line what ended a library's thread; what the run needs of it fails where it is needed."""
    library = type(failed.thread).__module__.partition(".")[0]
    named = failed.thread.name if failed.thread and library == "threading" else f"a thread of {library}"
    reason = one_line(failed.exc_value or failed.exc_type.__name__)
    print(f"moco: warning: {named} ended: {reason}", file=sys.stderr)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    print(f"moco: warning: {one_line(message)}", file=sys.stderr)
