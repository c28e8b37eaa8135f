"""The learning rate at each step."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A warm-up from 0 in equal steps, then steps (v1) or half a cosine (v2, section 2) over the whole run."""

    kind: Literal["step", "cosine"]
    lr: float
    steps: int
    """Length of the run."""
    warmup_steps: int = 0
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Shares of the run after each of which the rate is multiplied by `decay`: epochs 120 and 160 of 200 in v1."""
    decay: float = 0.1
    drops: tuple[int, ...] | None = None
    """The same in steps, instead of `milestones`."""

    def __call__(self, step: int) -> float:
        """The rate of `step` (from 0)."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.kind == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        shares = (milestone * self.steps for milestone in self.milestones)
        passed = sum(step >= drop for drop in (shares if self.drops is None else self.drops))
        return self.lr * self.decay**passed


def is_due(step: int, every: int, last: int | None = None) -> bool:
    """Whether what is done every so many steps, and after the last, is due after `step`; with 0 it never is."""
    return every > 0 and (step % every == 0 or step == last)
