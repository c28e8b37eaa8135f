"""What the steps since the last line of metrics gave: means, and how fast they were."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from moco.runtime import distributed


class Recent:
    """Collects figures of steps until they are logged together; `step` is the first that counts.

    With `active` false, where nothing is ever logged, it collects nothing.
    """

    def __init__(self, step: int, *, active: bool = True) -> None:
        self._figures: list[dict[str, Tensor]] = []
        self._step, self._since, self._active = step, time.monotonic(), active

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Note scalars of a step, or of a part of it; the names must always be the same ones."""
        if self._active:
            self._figures.append({name: value.detach() for name, value in figures.items()})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside."""
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    def summary(self, step: int, also: Mapping[str, float] | None = None) -> tuple[dict[str, float], float]:
        """The mean of each figure over steps and ranks, and steps per second; the next summary begins after `step`.

        The numbers of `also` are of one step: their means are over the ranks. All ranks ask together.
        """
        names, also = list(self._figures[0]), also or {}
        own = torch.stack([torch.stack([figures[name] for figures in self._figures]).mean() for name in names])
        means = distributed.mean(torch.cat([own, own.new_tensor(list(also.values()))])).tolist()
        now = time.monotonic()
        speed = (step - self._step) / (now - self._since)
        self._figures, self._step, self._since = [], step, now
        return dict(zip((*names, *also), means, strict=True)), speed
