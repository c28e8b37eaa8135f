"""Keeps a run to its time (--end-after): plans its length again on the way, by the speed until then."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import count_head_steps
from moco.pretraining.monitor import Watch
from moco.runtime import distributed
from moco.runtime.configfile import from_json, to_json
from moco.runtime.fields import require
from moco.runtime.files import read_bounded
from moco.runtime.runlog import write_text

PARTS = 20
"""The length is planned again at each twentieth of the time: a machine that becomes 2.4 times slower just after the
last of them, at 95%, is 7% late."""
LEAST_STEPS = 3
"""Minimum number of steps to measure a speed."""
SLACK = 0.03
"""Share of the time by which a run may be early or late without being planned again: a speed is not known better."""
TAIL = 0.05
"""Where the time is over, a run still makes this share of the steps that it has made: without the last steps of the
schedule, at small rates, an encoder is worse than one of a shorter run."""
WORTH_TELLING = 0.2
"""Share of the length last said by which another one is said, too; metrics.jsonl has them all."""
ENDLESS = 10**9
"""Steps whose batches are asked for where the last one is not known yet."""


class Timetable:
    """Measures the steps and evaluations of a run, and plans its length again; `watch.config` has the latest.

    A decision is logged, and lies in config.json as --max-steps and --earlier-lengths, before anything depends on it.
    So a run is a function of its config as any other, and goes on bit for bit wherever it is interrupted.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch, self._run = watch, watch.run
        self._since, self._step = math.nan, 0
        self._look = self._looked = 0.0
        self._of_head = count_head_steps(watch.config)
        self._told = require(watch.config.max_steps)  # the length that was said last

    @property
    def latest(self) -> int:
        """Return the number of steps after which the run ends at the latest."""
        return ENDLESS if self._watch.config.end_after else require(self._watch.config.max_steps)

    def steps(self, start: int) -> Iterator[int]:
        """Yield the steps from `start` on, until the length that is planned by then is reached."""
        step = start
        while step < require(self._watch.config.max_steps):
            yield step
            step += 1

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Count what happens inside as a look, not as a part of a step."""
        begun = self._run.log.seconds
        yield
        self._look = self._run.log.seconds - begun
        self._looked += self._look

    def plan(self, step: int) -> bool:
        """Plan the length again if that is due after `step`; tell whether there is another one now.

        The first rank decides for all. A step that lies before a decision of an earlier part of the run is not decided
        on again.
        """
        config = self._watch.config
        if config.end_after is None:
            return False
        found = distributed.from_first(lambda: self._propose(step))
        if found is None:
            return False
        length, seconds = found
        before, speed = require(config.max_steps), config.batch_size / seconds
        self._watch.config = dataclasses.replace(
            config, max_steps=length, earlier_lengths=(*config.earlier_lengths, (step, before))
        )
        log = self._run.log
        if log.active:  # before any state that depends on it
            write_text(log.run / "config.json", to_json(self._watch.config, "pretrain"))
        log.set_length(length)
        log.event("planned_again", step=step, max_steps=length, was=before, images_per_second=round(speed, 1))
        if abs(length - self._told) > WORTH_TELLING * self._told:
            log.say(
                f"step {step}/{length}  length adjusted to end in time: at {speed:.0f} images/s, {length} steps fit "
                f"({self._told} were planned)"
            )
            self._told = length
        return True

    def _propose(self, step: int) -> tuple[int, float] | None:
        """Propose another length, and say what a step takes now; nothing where that is not due, or little changes."""
        config, now = self._watch.config, self._run.log.seconds
        length, seconds = require(config.max_steps), require(config.end_after)
        if math.isnan(self._since) or step <= self._of_head:  # the first step includes the start; these are faster
            self._since, self._step, self._looked = now, step, 0.0
        steps = step - self._step
        if steps < LEAST_STEPS or now - self._since < seconds / PARTS:
            return None
        each = (now - self._since - self._looked) / steps
        self._since, self._step, self._looked = now, step, 0.0
        if step >= length or (config.earlier_lengths and step <= config.earlier_lengths[-1][0]):
            return None
        with_looks = each + (self._look / config.knn_every if config.knn_every else 0.0)
        left = seconds - now - config.end_spare * each - self._look
        fit = min(ENDLESS, step + max(0, int(left / with_looks)))
        if fit < length:
            fit = max(fit, min(length, step + max(1, math.ceil(TAIL * step))))
        return (fit, each) if abs(fit - length) * with_looks > SLACK * seconds else None


def follow_lengths(config: PretrainConfig) -> PretrainConfig:
    """Take the lengths over that were planned for the run in `config.out`, if it began with that of `config`."""
    if config.end_after is None or config.earlier_lengths:
        return config

    def read() -> PretrainConfig:
        path = config.out / "config.json"
        return from_json(PretrainConfig, read_bounded(path), path) if path.is_file() else config

    theirs = distributed.from_first(read)
    if not theirs.earlier_lengths or theirs.earlier_lengths[0][1] != config.max_steps:
        return config
    return dataclasses.replace(config, max_steps=theirs.max_steps, earlier_lengths=theirs.earlier_lengths)


def require_lengths(config: PretrainConfig) -> None:
    """Raise BadInputError where --earlier-lengths cannot have come about: each turn lies within two lengths."""
    begun, lengths = 0, [length for _, length in config.earlier_lengths] + [require(config.max_steps)]
    for (turn, _), before, after in zip(config.earlier_lengths, lengths, lengths[1:], strict=False):
        if not begun < turn < min(before, after):
            raise BadInputError(
                f"--earlier-lengths: a turn after step {turn}, from {before} to {after} steps: expected turns that "
                f"follow each other, each before the end of both lengths"
            )
        begun = turn
