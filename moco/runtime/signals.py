"""A request to stop, honoured between two steps."""

import signal
from types import FrameType, TracebackType

import torch

from moco.runtime import distributed

EXIT_CODE = 75
"""Of a process that was saved after a signal."""


class StopRequest:
    """Notes SIGINT and SIGTERM while it is entered; a second signal does what it always did."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self) -> "StopRequest":
        self._noted = False
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
        for number in self.SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        for known, handler in self._before.items():
            signal.signal(known, handler)

    def agreed(self, device: str) -> bool:
        """Whether any rank was asked to stop; every rank gets the same answer."""
        if distributed.world_size() == 1:
            return self._noted
        return bool(distributed.mean(torch.tensor(float(self._noted), device=device)) > 0)
