"""How a time budget is spent: from what everything costs to a number of steps, looks and checkpoints."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

RESERVE = 0.04
"""Share of the time left that is not planned for: a speed that was measured for seconds is off by a few percent."""
SHARE_OF_LOOKS = 0.05
"""Share of the time left for the monitor's evaluations; two always happen, before the first and after the last step."""
MOST_LOOKS = 20
BETWEEN_LOOKS = 10
"""Least steps between two of these evaluations: after fewer nothing has changed."""
SHARE_OF_SAVES = 0.02
"""Share of training that writing checkpoints may take."""
TRYING = 0.2
"""Share of all the time that trying ways may take."""
LEAST_TRIED = 10
"""Steps of a trial; of fewer an encoder learns nothing that could be compared."""
BETWEEN_LINES = 5.0
"""Seconds between two lines of metrics."""
MOST_BETWEEN_LINES = 1000
BETWEEN_SAVES = 60.0
"""Seconds between two checkpoints, at least."""


class Budget:
    """The seconds that a command may take, counted from `started` on, a time of `time.monotonic`."""

    def __init__(self, seconds: float, started: float) -> None:
        self.seconds, self._started = seconds, started

    @property
    def spent(self) -> float:
        """Return the seconds since the start, without pauses."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Return the seconds left; negative when the time is over."""
        return self.seconds - self.spent

    def describe(self) -> str:
        """Say how much of the time is spent."""
        return f"auto: took {self.spent / 60:.1f} minutes (--minutes {self.seconds / 60:g})"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside: a person answers a question, or a file is downloaded."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - begun


@dataclass(frozen=True)
class Costs:
    """Seconds that each part of a run takes, as measured."""

    step: float
    start: float = 0.0
    """Seconds from the call to the first step: building the network, starting the loading processes."""
    look: float = 0.0
    """One look by the monitor and the check-up of the run's health."""
    save: float = 0.0
    """One checkpoint."""
    evaluation: float = 0.0
    """The evaluation at the end."""


@dataclass(frozen=True)
class Pace:
    """The length of a run, and the steps between two looks, two checkpoints and two lines of metrics."""

    max_steps: int
    knn_every: int
    checkpoint_every: int
    looks: int
    training: float
    """Seconds that the steps take."""
    log_every: int


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation at the end compares with, and the seconds that it takes; 0 where there is none."""

    seconds: float
    published: bool = False
    random: bool = False
    joined: bool = False
    """Whether published weights and the encoder are joined, and that is compared, too."""
    pixels: bool = False
    """Whether raw pixels are compared with; they always are where random weights are."""


def plan_evaluation(limit: float, alone: float, published: float, pixels: float) -> Evaluation:
    """Plan what the encoder is compared with in at most `limit` seconds.

    Raw pixels come first, then published weights, then random ones. Evaluating the encoder takes `alone` seconds, as
    random weights do; `published` is 0 where there are none.
    """
    if alone > limit:
        return Evaluation(0.0)
    with_pixels = alone + pixels <= limit
    seconds = alone + (pixels if with_pixels else 0.0)
    with_published = 0 < published <= limit - seconds
    seconds += published if with_published else 0.0
    with_random = with_pixels and seconds + alone <= limit
    return Evaluation(seconds + (alone if with_random else 0.0), with_published, with_random, pixels=with_pixels)


def plan_joining(evaluation: Evaluation, seconds: float, limit: float) -> Evaluation:
    """Plan to join the encoder with the published weights, where they are compared and that takes at most `limit`."""
    joins = evaluation.published and seconds <= limit
    return replace(evaluation, seconds=evaluation.seconds + seconds, joined=True) if joins else evaluation


def plan_trial(seconds: float, costs: Costs, max_steps: int) -> int:
    """Plan how many of a run's first steps can be tried in so many seconds; 0 where these are too few to judge by.

    A trial starts, looks, steps and saves as the run does, and is judged by one more look. It is at most half of a run.
    """
    steps = min(max_steps // 2, int((seconds - costs.start - 2 * costs.look - costs.save) / costs.step))
    return steps if steps >= LEAST_TRIED else 0


def plan_pace(left: float, costs: Costs, *, max_steps: int | None = None, knn_every: int | None = None) -> Pace:
    """Plan a run for the seconds that are left. A length or a distance of looks that is given stays.

    Looks get their share first, then the steps get what remains after start, saves and evaluation: with s steps and l
    looks, s * step + l * look = (1 - RESERVE) * left - start - evaluation - save.
    """
    usable = (1 - RESERVE) * left - costs.start - costs.evaluation - costs.save
    interval = max(BETWEEN_SAVES, costs.save / SHARE_OF_SAVES)
    step = costs.step * (1 + costs.save / interval)
    looks = MOST_LOOKS if costs.look <= 0 else min(MOST_LOOKS, max(2, int(SHARE_OF_LOOKS * left / costs.look)))
    if max_steps is None:
        fixed, each = (looks, 0.0) if knn_every is None else (2, 1 / knn_every) if knn_every else (0, 0.0)
        max_steps = max(1, int((usable - fixed * costs.look) / (step + each * costs.look)))
    if knn_every is None:
        knn_every = min(max_steps, max(BETWEEN_LOOKS, math.ceil(max_steps / (looks - 1))))
    looks = math.ceil(max_steps / knn_every) + 1 if knn_every else 0
    checkpoint_every = max(1, min(max_steps, round(interval / costs.step)))
    log_every = max(1, min(MOST_BETWEEN_LINES, round(BETWEEN_LINES / costs.step)))
    return Pace(max_steps, knn_every, checkpoint_every, looks, max_steps * step, log_every)
