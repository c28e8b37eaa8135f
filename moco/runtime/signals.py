"""A request to stop, honoured between two steps."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

EXIT_CODE = 75
"""Exit code of a process that was saved after a signal."""
SAME_REQUEST = 1.0
"""Seconds in which further signals are the first one's echo: a scheduler signals torchrun and every process, and
torchrun hands its own on to them."""


class StopRequest:
    """Notes signals that ask to end while it is entered; a second one, a second later, does what it always did.

    Those of a scheduler, that time is nearly up, may come again and again, and stay one request. A signal that the
    process was started to ignore (nohup, a shell's background job) stays ignored. With `active` false, where nothing
    can be saved, the first one does what it always did too.
    """

    WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGXCPU") if hasattr(signal, name))
    SIGNALS = (
        signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []), *WARNINGS,
    )  # fmt: skip

    def __init__(self, *, active: bool = True) -> None:
        self.noted, self._active = False, active

    def __enter__(self) -> "StopRequest":
        self.noted = False
        main = threading.current_thread() is threading.main_thread()  # no other may handle signals
        handlers = {number: signal.getsignal(number) for number in self.SIGNALS if main and self._active}
        self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.noted:
            self.noted, self._since = True, time.monotonic()
        elif number not in self.WARNINGS and time.monotonic() - self._since > SAME_REQUEST:
            for known, handler in self._before.items():
                signal.signal(known, handler)
            signal.raise_signal(number)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # no other may handle signals
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
