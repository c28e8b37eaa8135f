"""The learning rate at each step, and a momentum that rises to 1."""

import math
from dataclasses import dataclass
from typing import Literal

Lengths = tuple[tuple[int, int], ...]
"""(step, length): a run was planned to make so many steps, until its length was planned again after so many."""


@dataclass(frozen=True)
class Schedule:
    """A warm-up from 0 in equal steps, then steps (v1) or half a cosine (v2, section 2) over the whole run.

    With "cosine-after-warmup" the half cosine begins where the warm-up ends (v3, section 4). Where the length was
    planned again on the way, the rest of the schedule is stretched or compressed from there on, so that it ends with
    the run and never jumps.
    """

    kind: Literal["step", "cosine", "cosine-after-warmup"]
    lr: float
    steps: int
    """Length of the run."""
    warmup_steps: int = 0
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Shares of the run after each of which the rate is multiplied by `decay`: epochs 120 and 160 of 200 in v1."""
    decay: float = 0.1
    drops: tuple[int, ...] | None = None
    """The same in steps, instead of `milestones`."""
    earlier: Lengths = ()
    """Earlier lengths of the run, in order; `warmup_steps` and `drops` are steps of the first."""

    def __call__(self, step: int) -> float:
        """Return the rate of `step` (from 0)."""
        steps = self.earlier[0][1] if self.earlier else self.steps
        planned = planned_step(step, self.steps, self.earlier)
        if planned < self.warmup_steps:
            return self.lr * min(planned + 1, self.warmup_steps) / self.warmup_steps
        if self.kind == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * planned / steps))
        if self.kind == "cosine-after-warmup":
            share = (planned - self.warmup_steps) / max(1, steps - self.warmup_steps)
            return self.lr * 0.5 * (1 + math.cos(math.pi * share))
        shares = (milestone * steps for milestone in self.milestones)
        passed = sum(planned >= drop for drop in (shares if self.drops is None else self.drops))
        return self.lr * self.decay**passed


def planned_step(step: int, steps: int, earlier: Lengths) -> float:
    """Compute the step of the first plan that `step` corresponds to, in a run that ends after `steps`.

    With the first length S and a turn after t steps at place v: from there on every step advances by (S - v) / (new
    length - t), so that the last step of the run is the last one of the plan.
    """
    if not earlier:
        return float(step)
    first, place, begun = earlier[0][1], 0.0, 0
    for turn, length in (*earlier, (step, steps)):
        until = min(step, turn)
        place += (first - place) * (until - begun) / (length - begun)
        begun = until
        if step <= turn:
            break
    return place


def raise_to_one(first: float, step: float, steps: int) -> float:
    """Compute m = 1 - (1 - first) (1 + cos(pi step / steps)) / 2, which rises from `first` to 1 (v3, section 4)."""
    return 1 - (1 - first) * 0.5 * (1 + math.cos(math.pi * step / steps))


def is_due(step: int, every: int, last: int | None = None) -> bool:
    """Return whether what is done every so many steps, and after the last, is due after `step`; with 0 it never is."""
    return every > 0 and (step % every == 0 or step == last)
