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
    """Notes SIGINT and SIGTERM while it is entered; one that comes more than a second later does what it always did.

    With `active` false, where nothing can be saved, the first one does too.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, active: bool = True) -> None:
        self.noted, self._active = False, active

    def __enter__(self) -> "StopRequest":
        self.noted = False
        main = threading.current_thread() is threading.main_thread()  # no other may handle signals
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS if main and self._active}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.noted:
            self.noted, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > SAME_REQUEST:
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
