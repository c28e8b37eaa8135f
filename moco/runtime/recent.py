"""What the steps since the last line of metrics gave: means, how fast they were, and how long they waited for data."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from moco.runtime import distributed

Item = TypeVar("Item")


class Recent:
    """Collects figures of steps until they are logged together; `step` is the first that counts.

    With `active` false, where nothing is ever logged, it collects nothing.
    """

    def __init__(self, step: int, *, active: bool = True) -> None:
        self._figures: list[dict[str, Tensor]] = []
        self._step, self._since, self._active = step, time.monotonic(), active
        self._waited = 0.0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Note scalars of a step, or of a part of it; the names must always be the same ones."""
        if self._active:
            self._figures.append({name: value.detach() for name, value in figures.items()})

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches and measure the wait for each."""
        iterator, end = iter(batches), object()
        while True:
            started = time.monotonic()
            item = next(iterator, end)
            self._waited += time.monotonic() - started
            if item is end:
                return
            yield item  # type: ignore[misc]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside."""
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    def summary(self, step: int, also: Mapping[str, Tensor] | None = None) -> tuple[dict[str, float], float, float]:
        """Average each figure over steps and ranks; add steps per second and the percentage of time without a batch.

        The last is that of this rank. The next summary begins after `step`.
        The scalars of `also` are of one step: their means are over the ranks, and one that is NaN is left out. The host
        waits once for all of them. All ranks ask together.
        """
        names, also = list(self._figures[0]), also or {}
        own = [torch.stack([figures[name] for figures in self._figures]).mean() for name in names]
        means = distributed.mean(torch.stack([*own, *also.values()])).tolist()
        now = time.monotonic()
        speed, waiting = (step - self._step) / (now - self._since), 100 * self._waited / (now - self._since)
        self._figures, self._step, self._since, self._waited = [], step, now, 0.0
        figures = dict(zip((*names, *also), means, strict=True))
        known = {name: value for name, value in figures.items() if name in names or not math.isnan(value)}
        return known, speed, round(waiting, 1)
