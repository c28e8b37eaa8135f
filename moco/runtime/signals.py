"""A request to stop, honoured between two steps."""

import signal
from types import FrameType, TracebackType

EXIT_CODE = 75
"""Of a process that was saved after a signal."""


class StopRequest:
    """Notes SIGINT and SIGTERM while it is entered; a second signal does what it always did."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> "StopRequest":
        self.noted = False
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
        for number in self.SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        for known, handler in self._before.items():
            signal.signal(known, handler)
