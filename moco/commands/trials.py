"""Tries the ways that are open to `moco pretrain auto`: each makes the first steps of its run, and is then judged."""

import contextlib
import dataclasses
import io
import itertools
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from moco.commands.readiness import Ready, set_pace
from moco.commands.scene import Scene
from moco.data import fingerprint
from moco.data.loader import Batch, Batches
from moco.errors import BadInputError, DivergedError, counted
from moco.evaluation.comparison import encode_both, measure_joining, thin, vote_by_features
from moco.evaluation.session import place_weights
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.pace import plan_trial
from moco.pretraining.prepare import build_batches, resolve_config
from moco.pretraining.ways import Compared, Tried
from moco.runtime.configfile import from_json, to_json
from moco.runtime.device import preserve_torch_state
from moco.runtime.fields import require
from moco.runtime.files import read_bounded
from moco.runtime.folder import read_status
from moco.runtime.phases import say_if_slow
from moco.runtime.runlog import read_metrics, write_text
from moco.runtime.signals import EXIT_CODE


class _TrialIsOverError(Exception):
    """Leaves the loop."""


@dataclass(frozen=True)
class FirstBatches:
    """The first batches of a run; asking for more leaves the loop, which has saved its last step by then."""

    batches: Batches
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Return the run's steps per epoch."""
        return self.batches.steps_per_epoch

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield them."""
        yield from itertools.islice(self.batches.run(start, stop, workers), self.steps - start)
        raise _TrialIsOverError


def plan_trials(scene: Scene, ready: Sequence[Ready], *, known: bool) -> list[tuple[Ready, int]]:
    """Plan the ways' runs and how many of their first steps are tried; nothing where the time is too short for that.

    The weights of the first may be `known` as they are: it needs no trial. Whichever way is kept, its trial is a part
    of its run: what it has less are the trials of the others.
    """
    trials = len(ready) - known
    seconds = scene.trial_seconds(trials)
    planned = []
    for number, one in enumerate(ready):
        tried = number >= known
        paced = set_pace(scene, one, scene.budget.left - (trials - tried) * seconds)
        steps = plan_trial(seconds, one.costs, require(paced.pace).max_steps) if tried else 0
        if tried and not steps:
            return []
        planned.append((paced, steps))
    return planned


def note_images(folder: Path, other: Path) -> None:
    """Tell a trial which images there are, as an earlier one found: going through a million files takes seconds."""
    if (other / fingerprint.FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(other / fingerprint.FILE, folder / fingerprint.FILE)


def try_way(
    scene: Scene, ready: Ready, steps: int, folder: Path, as_it_is: Compared | None, beside: Compared | None = None
) -> Tried:
    """Make the first steps of a run in `folder`, and judge its encoder by the neighbours of the compared images.

    A run that keeps the best encoder never ends worse than it begins, so that it is not judged worse than its weights
    `as_it_is`. One that diverges has no image right. The encoder is also judged joined with the weights `beside` it.
    Raises KeyboardInterrupt where a signal came.
    """
    bank, queries = require(scene.judged)
    scene.say(f"auto: trial of {counted(steps, 'step')}: {ready.way.title}, about {steps * ready.costs.step:.0f} s")
    begun, right = time.monotonic(), torch.zeros(len(bank) + len(queries), dtype=torch.bool)
    joined = None
    try:
        _begin(scene, ready, steps, folder)
        found = place_weights(load_weights(str(folder / "encoder.safetensors"), ""), scene.device)
        size = require(ready.config.image_size)
        grids = found.encoder.grids(size)
        features = encode_both(found, size, bank, queries, scene.precision, grids)
        right = vote_by_features(features, bank, queries, scene.device, grids)
        if beside is not None:
            with say_if_slow("auto: joining the encoder of the trial with the published weights"):
                parts = require(beside.features), thin(features[0])
                joined = beside.top1 + measure_joining(*parts, bank, (beside.grids, grids))
    except DivergedError:
        pass
    if ready.config.keep == "best" and as_it_is is not None and int(as_it_is.right.sum()) > int(right.sum()):
        right = as_it_is.right
    compared = Compared(ready.way.name, require(ready.config.image_size), right)
    length = require(ready.pace).max_steps
    return Tried(ready.way, compared, steps, time.monotonic() - begun, length, joined)


def _begin(scene: Scene, ready: Ready, steps: int, folder: Path) -> None:
    """Run the loop for the first steps, and save after the last of them."""
    nowhere = io.StringIO()
    config = dataclasses.replace(ready.config, out=folder, checkpoint_every=steps, json=True, logger=())
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")  # the run itself repeats them
        with preserve_torch_state(scene.device):
            first = FirstBatches(build_batches(resolve_config(config, scene.images), scene.images), steps)
        try:
            result = pretrain(config, scene.images, ready.monitor, first, ready.checkup, ready.teacher)
        except _TrialIsOverError:
            return
    if result.get("exit_code") == EXIT_CODE:
        raise KeyboardInterrupt


def measure_trial(folder: Path) -> float:
    """Read from its log how many seconds the training of the trial in `folder` took."""
    return max((float(line.get("time", 0.0)) for line in read_metrics(folder)), default=0.0)


def take_over(folder: Path, config: PretrainConfig) -> None:
    """Make the trial in `folder` the run of `config`, which goes on from its checkpoint.

    Where that fails or is interrupted nothing of it stays: without its settings the run would be none. Raises
    BadInputError where it cannot be written.
    """
    path, made = folder / "config.json", not config.out.exists()
    own = from_json(PretrainConfig, read_bounded(path), path)
    named = {
        name: getattr(config, name) for name in ("out", "checkpoint_every", "json", "logger", "end_after", "end_spare")
    }
    status = {**read_status(folder), "state": "stopped", "exit_code": EXIT_CODE}  # it left the loop by an error
    try:
        shutil.copytree(folder, config.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("config.json"))
        write_text(config.out / "status.json", json.dumps(status) + "\n")
        write_text(config.out / "config.json", to_json(dataclasses.replace(own, **named), "pretrain"))
    except BaseException as error:
        _remove_copy(folder, config.out, made=made)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or ", ".join(dict.fromkeys(str(one[2]) for one in error.args[0]))
        raise BadInputError(f"--out {config.out}: the trial cannot be copied there ({reason}): give another") from error


def _remove_copy(folder: Path, out: Path, *, made: bool) -> None:
    """Remove what a copy of `folder` has left in `out`, and `out` itself where it was `made` for that."""
    for part in [out] if made else [out / entry.name for entry in folder.iterdir()]:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
