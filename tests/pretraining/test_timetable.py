"""A run keeps to its time on a machine whose speed changes, by simulation and in the real loop with a made-up clock."""

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file

from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.data.loader import Batch, Batches
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_batches, build_schedule, resolve_config
from moco.pretraining.recipes import recipe
from moco.pretraining.timetable import PARTS, Timetable, require_lengths
from moco.runtime.configfile import from_json
from moco.runtime.fields import require

Speed = Callable[[float], float]
"""Seconds since the start -> how many times as fast as at first the machine is."""

SPEEDS: dict[str, Speed] = {
    "as measured": lambda now: 1.0,
    "falls after 30 s": lambda now: 1.0 if now < 30 else 1 / 2.4,
    "rises after 30 s": lambda now: 1.0 if now < 30 else 2.0,
    "is slower from the first step on": lambda now: 1 / 2.4,
    "contention in the middle": lambda now: 1 / 2.4 if 250 < now < 400 else 1.0,
    "falls late": lambda now: 1.0 if now < 575 else 1 / 2.4,
    "rises late": lambda now: 1.0 if now < 575 else 2.0,
    "falls slowly": lambda now: 1.0 / (1 + now / 600),
    "is noisy": lambda now: 0.7 + 0.6 * (int(now / 7) % 2),
}


class Clocked:
    """Stands for a watch and its run: a clock, and what the timetable says."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.now, self.said = config, 0.0, list[str]()
        self.run, self.log, self.active = self, self, False

    @property
    def seconds(self) -> float:
        """The time."""
        return self.now

    def say(self, text: str) -> None:
        """Note it."""
        self.said.append(text)

    def set_length(self, steps: int) -> None:
        """Have no progress bar."""

    def event(self, name: str, **values: object) -> None:
        """Have no log."""


def simulate(config: PretrainConfig, speed: Speed, *, step: float, look: float, spare: float) -> tuple[Clocked, float]:
    """Walk through a run as the loop does; return it and the seconds that it takes with what follows it."""
    watch = Clocked(config)
    timetable, made = Timetable(watch), 0  # type: ignore[arg-type]
    while made < (watch.config.max_steps or 0):
        if made % (watch.config.knn_every or 1) == 0:
            with timetable.looking():
                watch.now += look / speed(watch.now)
        watch.now += step / speed(watch.now)
        made += 1
        timetable.plan(made)
    watch.now += (look + spare) / speed(watch.now)
    return watch, watch.now


def planned(tmp_path: Path, **values: Any) -> PretrainConfig:
    """A config of 600 s of steps of 0.1 s, of which 40 s are for what follows, and three for each of ten looks."""
    own = {"max_steps": 5300, "knn_every": 600, "end_after": 600.0, "end_spare": 400, "batch_size": 128}
    return PretrainConfig(data="none", out=tmp_path, **{**own, **values})


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are not checked: a clock stands for a watch."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", SPEEDS)
def test_a_run_ends_in_time_whatever_the_speed_does(tmp_path: Path, name: str) -> None:
    """Within 10% of the 600 s, and the schedule ends with the run."""
    watch, seconds = simulate(planned(tmp_path), SPEEDS[name], step=0.1, look=3.0, spare=40.0)
    assert seconds == pytest.approx(600, rel=0.08)
    lengths = [length for _, length in watch.config.earlier_lengths] + [require(watch.config.max_steps)]
    told = [lengths[0]] + [int(line.split()[1].partition("/")[2]) for line in watch.said]
    assert len(told) <= len(lengths) <= PARTS
    assert all(abs(after - before) > 0.2 * before for before, after in itertools.pairwise(told))  # the large changes
    assert abs(lengths[-1] - told[-1]) <= 0.2 * told[-1]
    require_lengths(watch.config)
    if name == "as measured":
        assert watch.config == planned(tmp_path)
    rates = build_schedule(dataclasses.replace(watch.config, lr=1.0, schedule="cosine"), steps_per_epoch=10)
    made = [rates(step) for step in range(watch.config.max_steps or 0)]
    assert made[0] == 1
    assert made[-1] < 1e-4
    assert all(0 <= before - after < 0.01 for before, after in itertools.pairwise(made))


@pytest.mark.usefixtures("unchecked")
def test_without_a_time_the_length_stays(tmp_path: Path) -> None:
    """However slow the machine is."""
    watch, _ = simulate(planned(tmp_path, end_after=None), SPEEDS["falls after 30 s"], step=0.1, look=3.0, spare=0.0)
    assert watch.config == planned(tmp_path, end_after=None)


@pytest.mark.usefixtures("unchecked")
def test_the_faster_steps_of_the_head_alone_plan_nothing(tmp_path: Path) -> None:
    """The length only grows by the time that they save."""
    watch = Clocked(planned(tmp_path, knn_every=0, end_spare=0, max_steps=100, head_steps=40))
    timetable, made = Timetable(watch), 0  # type: ignore[arg-type]
    while made < (watch.config.max_steps or 0):
        watch.now += 3 if made < 40 else 6
        made += 1
        timetable.plan(made)
    lengths = [length for _, length in watch.config.earlier_lengths] + [made]
    assert lengths == [100, 120]
    assert watch.config.earlier_lengths[0][0] > 40
    assert watch.now == 600


@pytest.mark.usefixtures("unchecked")
def test_a_run_whose_time_is_over_still_ends_its_schedule(tmp_path: Path) -> None:
    """After a twentieth of the steps that it has made: here the machine stands still for an hour."""
    watch = Clocked(planned(tmp_path, knn_every=0, max_steps=5600))
    timetable = Timetable(watch)  # type: ignore[arg-type]
    for step in range(1, 2001):
        watch.now += 0.1
        assert not timetable.plan(step)
    watch.now += 3600
    for step in range(2001, 2004):
        timetable.plan(step)
    assert watch.config.earlier_lengths == ((2001, 5600),)
    assert watch.config.max_steps == 2001 + 101


@pytest.mark.parametrize("lengths", [((5, 5),), ((5, 10), (5, 20)), ((30, 40),), ((5, 3),)], ids=str)
def test_lengths_that_cannot_be_are_refused(tmp_path: Path, lengths: Any) -> None:
    """A turn after the end of a length, or before the turn that precedes it."""
    with pytest.raises(BadInputError, match="--earlier-lengths: a turn after step"):
        require_lengths(planned(tmp_path, max_steps=30, earlier_lengths=lengths))


# --- in the real loop -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Slowing:
    """The batches of a run, each of which takes a tenth of a second by the clock, and 0.24 s from `slow` on."""

    batches: Batches
    clock: list[float]
    slow: int = 10
    signal_at: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """That of the batches."""
        return self.batches.steps_per_epoch

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield them."""
        for step, batch in enumerate(self.batches.run(start, stop, workers), start):
            if step == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            self.clock[0] += 0.1 if step < self.slow else 0.24
            yield batch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the log."""
    now = [1000.0]
    monkeypatch.setattr("moco.runtime.runlog.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def images() -> Images:
    """Sixty-four digits."""
    return take_evenly(load("digits")["train"], 64)


def small(out: Path, **more: Any) -> PretrainConfig:
    """A run of 40 tiny steps that are to take four seconds."""
    values = {
        "arch": "resnet10-w4", "image_size": 8, "view_size": None, "batch_size": 8, "bn_groups": 2, "max_steps": 40,
        "dictionary": "queue", "queue_size": 16, "key_momentum_schedule": "cosine", "warmup_epochs": 1.0,
        "knn_every": 0, "precision": "fp32", "device": "cpu", "threads": 1, "workers": 0,
    }  # fmt: skip
    return recipe("quick", data="digits", out=out, **{**values, **more})


def train(config: PretrainConfig, images: Images, clock: list[float], signal_at: int | None = None) -> dict[str, Any]:
    """Train with a clock that each batch advances."""
    batches = build_batches(resolve_config(config, images), images)
    return pretrain(config, images, batches=Slowing(batches, clock, signal_at=signal_at))


def test_a_run_that_is_planned_again_is_a_function_of_its_config(
    tmp_path: Path, clock: list[float], images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends in time, and goes on bit for bit after a signal: a run of its last config, straight on, is the same."""
    config = small(tmp_path / "run", end_after=4.0)
    assert train(config, images, clock, signal_at=18)["exit_code"] == 75
    clock[0] += 500  # nobody counts the pause
    result = train(config, images, clock)
    assert result["seconds"] == pytest.approx(4, rel=0.08)
    path = tmp_path / "run" / "config.json"
    own = from_json(PretrainConfig, path.read_bytes(), path)
    assert own.earlier_lengths[0][1] == 40
    assert result["step"] == own.max_steps
    assert result["step"] < 30
    out = capsys.readouterr().out
    assert f"length adjusted to end in time: at {8 / 0.24:.0f} images/s," in out
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    turns = [(one["step"], one["was"]) for one in events if one.get("event") == "planned_again"]
    assert turns == list(map(tuple, own.earlier_lengths))
    assert train(config, images, clock)["already_done"]
    straight = dataclasses.replace(own, out=tmp_path / "straight", end_after=None)
    train(straight, images, clock)
    found, expected = (load_file(tmp_path / name / "encoder.safetensors") for name in ("run", "straight"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(BadInputError, match="--max-steps"):
        train(dataclasses.replace(config, max_steps=41), images, clock)
