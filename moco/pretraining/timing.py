"""Times the loop by the log that it writes, for `moco bench` and `moco pretrain auto`."""

import contextlib
import dataclasses
import io
import itertools
import json
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from moco.core.encoder import Encoder
from moco.core.pair import Teacher
from moco.data.images import Images
from moco.data.loader import Batch, Batches
from moco.errors import BadInputError, NoMemoryError, counted
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.monitor import Monitor
from moco.pretraining.prepare import build_batches, resolve_config
from moco.runtime.device import preserve_torch_state, resolve_device
from moco.runtime.signals import EXIT_CODE

LEAST = 3
"""Steps that are timed, at least; one more before them does not count."""


ENDLESS = 1_000_000
"""Steps of a run that is broken off when its time is over."""


class _TimeIsOverError(Exception):
    """Leaves the loop."""


@dataclass(frozen=True)
class ReadyBatches:
    """One batch again and again, to time a step without loading."""

    batch: Batch
    steps_per_epoch: int = ENDLESS

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batch stop - start times."""
        return itertools.repeat(self.batch, stop - start)


def time_training(
    training: PretrainConfig, images: Images, seconds: float, batches: Batches | None = None
) -> dict[str, Any]:
    """Run the loop for some seconds after its first step; return the images per second of its metrics.jsonl."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as run:
        warnings.simplefilter("ignore")  # a queue longer than the images are many is no matter here
        with contextlib.suppress(_TimeIsOverError):
            pretrain(_into(training, Path(run)), images, stop_after(seconds), batches)
        lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return measure_throughput(map(json.loads, lines), training.batch_size)


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step, and of everything before the first."""

    step: float
    start: float


@dataclass
class TimedBatches:
    """Notes when the loop asks for each batch, and leaves the loop when the time since the second is over."""

    batches: Batches
    seconds: float

    def __post_init__(self) -> None:
        self.steps_per_epoch, self.asked = self.batches.steps_per_epoch, list[float]()

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches until the time is over."""
        for batch in self.batches.run(start, stop, workers):
            self.asked.append(time.monotonic())
            if len(self.asked) > LEAST + 1 and self.asked[-1] - self.asked[1] >= self.seconds:
                raise _TimeIsOverError
            yield batch


def time_step(
    training: PretrainConfig, images: Images, seconds: float, teacher: Teacher | None = None
) -> StepTime | None:
    """Run the loop for some seconds after its first step; None where the device has too little memory.

    Raises KeyboardInterrupt where a signal came: the loop notes it and stops, and nothing of it is kept.
    """
    begun, nowhere = time.monotonic(), io.StringIO()
    device = resolve_device(training.device)
    with (
        warnings.catch_warnings(), tempfile.TemporaryDirectory() as run, redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        trial = dataclasses.replace(
            training, out=Path(run), max_steps=ENDLESS, head_steps=0, knn_every=0, checkpoint_every=0, keep="last",
            json=True, compile=_compile_if_asked(training), logger=(),
        )  # fmt: skip
        with preserve_torch_state(device):
            timed = TimedBatches(build_batches(resolve_config(trial, images), images), seconds)
        try:
            stopped = pretrain(trial, images, batches=timed, teacher=teacher).get("exit_code") == EXIT_CODE
        except _TimeIsOverError:
            stopped = False
        except (torch.OutOfMemoryError, NoMemoryError):
            return None
    if stopped:
        raise KeyboardInterrupt
    first, last = timed.asked[1], timed.asked[-1]
    return StepTime((last - first) / (len(timed.asked) - 2), timed.asked[0] - begun)


def stop_after(seconds: float) -> Monitor:
    """Build a monitor for every step that leaves the loop when the time since the end of the first step is over."""
    calls = list[float]()

    def monitor(encoder: Encoder) -> Mapping[str, float]:
        calls.append(time.monotonic())
        if len(calls) > LEAST + 1 and calls[-1] - calls[1] >= seconds:
            raise _TimeIsOverError
        return {}

    return monitor


def measure_throughput(lines: Iterable[Mapping[str, Any]], batch_size: int) -> dict[str, Any]:
    """Compute images per second from `time` and `step` of the first line with a loss, the warm-up, and of the last.

    Raises BadInputError where there are not two of them, or no time passed between them.
    """
    trained = [line for line in lines if "loss" in line]
    steps = trained[-1]["step"] - trained[0]["step"] if trained else 0
    seconds = trained[-1]["time"] - trained[0]["time"] if trained else 0.0
    if steps <= 0 or seconds <= 0:
        raise BadInputError(
            f"metrics with {counted(len(trained), 'line')} of a loss over {steps} steps and {seconds:g} s: expected "
            f"two or more from one run, some time apart"
        )
    return {"images_per_second": round(steps * batch_size / seconds, 2), "steps": steps, "seconds": round(seconds, 2)}


def _into(training: PretrainConfig, run: Path) -> PretrainConfig:
    """A line of metrics for every step, a look by the monitor after each, and no checkpoint.

    On a GPU for every tenth: at each of them the host waits for it.
    """
    every = 10 if resolve_device(training.device) == "cuda" else 1
    return dataclasses.replace(
        training, out=run, log_every=every, knn_every=every, head_steps=0, checkpoint_every=0, json=True,
        compile=_compile_if_asked(training), logger=(),
    )  # fmt: skip


def _compile_if_asked(training: PretrainConfig) -> Literal["on", "off"]:
    """Compare nothing first: that takes longer than what is timed."""
    return "on" if training.compile == "on" else "off"
