"""Whether losses and gradients are numbers, on a GPU asked a step late: no step waits for its own answer."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Note(NamedTuple):
    """What decides whether a step has diverged."""

    step: int
    losses: Sequence[Tensor]
    norm: Tensor
    """The norm of the gradient."""
    finite: Tensor
    """Whether all are finite: on the host, possibly still in transfer."""
    arrival: torch.cuda.Event | None


class FiniteCheck:
    """Notes every step; with `late`, the default on a GPU, the answer for a step is read after the next one is given.

    A step that failed is then found before anything is saved, logged or looked at: there `failed` is asked for `now`.
    """

    def __init__(self, device: str, timeout: float, *, late: bool | None = None) -> None:
        self._late, self._timeout = device == "cuda" if late is None else late, timeout
        self._notes: list[Note] = []
        self._read: Note | None = None

    @property
    def failure(self) -> Note:
        """Return the first step that failed; if it failed on another rank only, the last one read."""
        assert self._read is not None
        return self._read

    def note(self, step: int, losses: Sequence[Tensor], norm: Tensor) -> None:
        """Note what a step gave."""
        finite, arrival = torch.isfinite(sum(losses, norm)), None
        if finite.is_cuda:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            finite, arrival = host.copy_(finite, non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrival.record()
        self._notes.append(Note(step, losses, norm, finite, arrival))
        self._read = self._read or self._notes[0]

    def failed(self, *, now: bool) -> bool:
        """Return whether one of the noted steps has failed; the last one is left for the next time, but for `now`."""
        left = 1 if self._late and not now else 0
        while len(self._notes) > left:
            note = self._read = self._notes.pop(0)
            self._await(note.arrival)
            if not bool(note.finite):
                return True
        return False

    def _await(self, arrival: torch.cuda.Event | None) -> None:
        """Wait no longer than a collective may take: one that hangs would let the device hang."""
        end = time.monotonic() + self._timeout
        while arrival is not None and not arrival.query():  # type: ignore[no-untyped-call]
            if time.monotonic() > end:
                raise RuntimeError(f"timed out: the device has not answered for {self._timeout:g} s")
            time.sleep(1e-4)
