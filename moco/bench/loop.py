"""How many images the loop of `moco pretrain` itself trains on in a second, by the log that it writes."""

import contextlib
import dataclasses
import itertools
import json
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.bench.cases import TRAININGS
from moco.bench.config import BenchConfig
from moco.bench.flops import step_flops
from moco.bench.photographs import images_in
from moco.config import PretrainConfig, settled
from moco.core.encoder import Encoder
from moco.data.images import Images
from moco.data.loader import Batches, Loaded
from moco.errors import BadInputError
from moco.prepare import build_batches, build_encoder, resolve
from moco.pretrain import pretrain
from moco.record import Monitor

LEAST = 3
"""Steps that are timed, at least; one more before them does not count."""
ENDLESS = 1_000_000
"""Steps of a run that is broken off when its time is over."""


class _TimeIsOverError(Exception):
    """Leaves the loop."""


@dataclass(frozen=True)
class ReadyBatches:
    """One batch, again and again: what a step costs when nothing is loaded."""

    batch: Loaded
    steps_per_epoch: int = ENDLESS

    def run(self, start: int, stop: int, workers: int) -> Iterator[Loaded]:
        """The batch, stop - start times."""
        return itertools.repeat(self.batch, stop - start)


def step(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """The loop alone, on a batch that is ready; and the operations that it takes by formula."""
    training, images = _training(config, folder, case)
    resolved = resolve(training, images)
    batch = build_batches(resolved, images).loaded(0)
    flops = step_flops(build_encoder(resolved).to("meta"))
    found = timed(training, images, config.seconds, ReadyBatches(batch))
    return {
        **found,
        "gflop_per_image": round(flops / 1e9, 4),
        "gflops": round(found["images_per_second"] * flops / 1e9, 2),
        "precision": resolved.precision,
        "batch_size": resolved.batch_size,
        "threads": resolved.threads,
    }


def end_to_end(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """The loop as a user runs it, with its own loading and views."""
    training, images = _training(config, folder, case)
    workers = settled(resolve(training, images).workers)
    return {**timed(training, images, config.seconds), "workers": workers}


def timed(training: PretrainConfig, images: Images, seconds: float, batches: Batches | None = None) -> dict[str, Any]:
    """Run the loop for some seconds after its first step; the images per second of its metrics.jsonl."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as run:
        warnings.simplefilter("ignore")  # a queue longer than the images are many is no matter here
        with contextlib.suppress(_TimeIsOverError):
            pretrain(_into(training, Path(run)), images, until(seconds), batches)
        lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return throughput(map(json.loads, lines), training.batch_size)


def until(seconds: float) -> Monitor:
    """A monitor for every step that leaves the loop when the time, counted from the end of the first step, is over."""
    calls = list[float]()

    def monitor(encoder: Encoder) -> Mapping[str, float]:
        calls.append(time.monotonic())
        if len(calls) > LEAST + 1 and calls[-1] - calls[1] >= seconds:
            raise _TimeIsOverError
        return {}

    return monitor


def throughput(lines: Iterable[Mapping[str, Any]], batch_size: int) -> dict[str, Any]:
    """Images per second by `time` and `step` of the first and the last line with a loss; the first is warming up.

    Raises BadInputError where there are not two of them, or no time passed between them.
    """
    trained = [line for line in lines if "loss" in line]
    steps = trained[-1]["step"] - trained[0]["step"] if trained else 0
    seconds = trained[-1]["time"] - trained[0]["time"] if trained else 0.0
    if steps <= 0 or seconds <= 0:
        raise BadInputError(
            f"metrics with {len(trained)} line(s) of a loss over {steps} steps and {seconds:g} s: expected two or more "
            f"from one run, some time apart"
        )
    return {"images_per_second": round(steps * batch_size / seconds, 2), "steps": steps, "seconds": round(seconds, 2)}


def _training(config: BenchConfig, folder: Path, case: str) -> tuple[PretrainConfig, Images]:
    values = {name: getattr(config, name) for name in ("seed", "precision", "device", "threads")}
    training = PretrainConfig(data=case, out=folder / "run", max_steps=ENDLESS, **values, **TRAININGS[case])
    return training, images_in(folder, training.image_size)


def _into(training: PretrainConfig, run: Path) -> PretrainConfig:
    """A line of metrics for every step, a look by the monitor after each, and no checkpoint."""
    return dataclasses.replace(training, out=run, log_every=1, knn_every=1, checkpoint_every=0, json=True)
