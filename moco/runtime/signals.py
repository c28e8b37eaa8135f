"""A request to stop, honoured between two steps, and at once where the process only waits."""

import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TypeVar

Item = TypeVar("Item")

EXIT_CODE = 75
"""Exit code of a process that was saved after a signal."""
CTRL_C = (signal.SIGINT,)
SAME_REQUEST = 1.0
"""Seconds in which further signals are the first one's echo: a scheduler signals torchrun and every process, and
torchrun hands its own on to them."""
PATIENCE = 5.0
"""Seconds that one of several processes waits after a request, so that all can stop together."""
URGE_EVERY = 0.5
"""Seconds between two attempts to end a wait after a request."""


_asked = threading.Event()


class WaitEnded(BaseException):
    """A request to stop ended a wait, of which nothing needs to be kept.

    No Exception: what reads an image takes those for a damaged file.
    """


class StopRequest:
    """Notes signals that ask to end while it is entered; a second one, a second later, does what it always did.

    A request ends at once what is done inside `waiting` and between the items of `between`, by WaitEnded; one of
    several processes (`together`) waits on for some seconds first.

    Those of a scheduler, that time is nearly up, may come again and again, and stay one request. A signal that the
    process was started to ignore (nohup, a shell's background job) stays ignored; one that it was started to block is
    let through while this lasts. With `active` false, where nothing
    can be saved, the first one does what it always did too.
    """

    WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name))
    SIGNALS = (
        signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []), *WARNINGS,
    )  # fmt: skip

    def __init__(self, *, active: bool = True, together: bool = False) -> None:
        self.noted, self._active, self._patience = False, active, PATIENCE if together else 0.0
        self._waiting = self._urged = False
        self._left, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> "StopRequest":
        self.noted = False
        _asked.clear()
        self._left.clear()
        main = threading.current_thread() is threading.main_thread()  # no other may handle signals
        handlers = {number: signal.getsignal(number) for number in self.SIGNALS if main and self._active}
        self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        if sys.platform != "win32":  # a launcher may have left them blocked
            self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._lock:  # no urging after this, when the signal would do what it always did
            self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked & set(self._before))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Raise WaitEnded where a request came, or comes while this lasts."""
        self._waiting = True
        try:
            self._end_wait()
            yield
        finally:
            self._waiting = False

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; raise WaitEnded where a request comes while the next one is waited for."""
        iterator, end = iter(items), object()
        while True:
            with self.waiting():
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def _end_wait(self) -> None:
        if self._waiting and self.noted and time.monotonic() - self._since >= self._patience:
            raise WaitEnded

    def _urge(self, number: int) -> None:
        """Signal the main thread while it waits: its first exception may have been swallowed, or came too early."""
        while not self._left.wait(URGE_EVERY):
            with self._lock:
                if self._waiting and not self._left.is_set():
                    self._urged = True
                    signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._urged:
            self._urged = False
        elif not self.noted:
            self.noted, self._since = True, time.monotonic()
            _asked.set()
            if sys.platform != "win32":
                threading.Thread(target=self._urge, args=[number], daemon=True).start()
        elif number not in self.WARNINGS and time.monotonic() - self._since > SAME_REQUEST:
            for known, handler in self._before.items():
                signal.signal(known, handler)
            signal.raise_signal(number)
        self._end_wait()


def is_asked_to_stop() -> bool:
    """Tell whether the latest StopRequest noted a signal, also after it was left."""
    return _asked.is_set()


@contextmanager
def terminate_as_interrupt(numbers: Sequence[int] = StopRequest.SIGNALS) -> Iterator[None]:
    """Let signals that ask to end raise KeyboardInterrupt, as Ctrl-C does, so that temporary files are removed.

    It is raised also where a library, in whose code a signal came, made an error of its own of it.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may handle signals
        yield
        return
    noted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        noted.set()
        raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        if noted.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
