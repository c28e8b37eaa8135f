"""Looks at the loop's own steps from between them: the source of its batches is asked once a step."""

import contextlib
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from moco.data.images import Images
from moco.data.loader import Batch
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.timing import ENDLESS

TOP = 8
"""Kernels that are named, those that take longest."""


class _EnoughError(Exception):
    """Leaves the loop."""


@dataclass
class Probe:
    """One batch, again and again; steps are timed, then one is watched for host waits, and one is profiled."""

    batch: Batch
    on_gpu: bool
    warm_up: int = 5
    timed: int = 20
    steps_per_epoch: int = ENDLESS
    found: dict[str, Any] = field(default_factory=dict)

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batch until everything is measured; then leave the loop."""
        first = time.perf_counter()
        for step in range(self.warm_up):
            yield self.batch
            if step == 0:
                self._finish()
                self.found["first_step_s"] = round(time.perf_counter() - first, 1)
        self._finish()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        yield from self._timed_steps()
        if self.on_gpu:
            yield from self._watched_step()
            yield from self._profiled_step()
        raise _EnoughError

    def _timed_steps(self) -> Iterator[Batch]:
        """Time the steps on the device's own clock; the host is not kept from running ahead."""
        marks: list[Any] = [self._mark()]
        for _ in range(self.timed):
            yield self.batch
            marks.append(self._mark())
        self._finish()
        seconds = [a.elapsed_time(b) / 1000 if self.on_gpu else b - a for a, b in pairwise(marks)]
        self.found["ms"] = float(f"{1000 * statistics.median(seconds):.4g}")
        self.found["slowest_ms"] = float(f"{1000 * max(seconds):.4g}")
        if self.on_gpu:
            self.found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _watched_step(self) -> Iterator[Batch]:
        with watch_waits() as said:
            yield self.batch
        self.found["host_waits"] = len(said)
        self.found["waits"] = sorted(set(said))

    def _profiled_step(self) -> Iterator[Batch]:
        self._finish()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            yield self.batch
            self._finish()
        count, took = count_kernels(seen.events() or ())
        self.found["kernels"] = count
        self.found["busy_ms"] = round(sum(took.values()) / 1000, 2)
        self.found["top"] = {name: round(us / 1000, 2) for name, us in took.most_common(TOP)}

    def _finish(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def count_kernels(events: Iterable[Any]) -> tuple[int, Counter[str]]:
    """Count what ran on the GPU, and the microseconds by name; spans that only name others' time are none of it."""
    ran = [one for one in events if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
    took = Counter[str]()
    for one in ran:
        took[one.name[:60]] += one.time_range.elapsed_us()
    return len(ran), took


@contextlib.contextmanager
def watch_waits() -> Iterator[list[str]]:
    """Give a list of where the host waits for the GPU, as torch warns of it while this lasts; complete at its end."""
    said = list[str]()
    with ExitStack() as stack:
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield said
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits = (one for one in caught if "called a synchronizing" in str(one.message))
            said += [f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in waits]


def count_waits(function: Callable[[], object]) -> int:
    """Count how often the host waits for the GPU in a call, after one that does not count."""
    function()
    torch.cuda.synchronize()
    with watch_waits() as said:
        function()
    return len(said)


def probe_steps(config: PretrainConfig, images: Images, probe: Probe) -> dict[str, Any]:
    """Run the loop on the probe's batch until all is measured."""
    with contextlib.suppress(_EnoughError):
        pretrain(config, images, batches=probe)
    return probe.found
