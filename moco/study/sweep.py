"""A user's own question as a study: flags with values, and successive halving of their arms."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moco.errors import BadInputError
from moco.runtime.fields import flag
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Study, build_study, find_study
from moco.study.rows import Row

SWEEP = "sweep"


@dataclass(frozen=True)
class Round:
    """One round of successive halving: so many of the best arms, each trained on so many images."""

    arms: int
    share: float
    """A share of the images of the last round."""


def settle_study(config: StudyConfig) -> Study:
    """Return the study of this name, or the one that --flag and --values make.

    Raises BadInputError where the two do not go together, or a flag or value is none of moco pretrain.
    """
    if config.name != SWEEP:
        if config.flag or config.values or config.halving:
            raise BadInputError(f"--flag, --values and --halving belong to moco study {SWEEP}, not to {config.name}")
        return find_study(config.name)
    if not config.flag or len(config.flag) != len(config.values):
        raise BadInputError(
            f"moco study {SWEEP}: {len(config.flag)} --flag and {len(config.values)} --values, expected one --values "
            f"behind each --flag, such as --flag lr --values 0.03 0.06"
        )
    names = [name.lstrip("-").replace("-", "_") for name in config.flag]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInputError(f"moco study {SWEEP}: --flag {twice} comes twice: give all its values behind one --values")
    grid = {name: [_value(word) for word in words] for name, words in zip(names, config.values, strict=True)}
    numbers = all(isinstance(value, int | float) and value > 0 for value in grid[names[0]])
    table = {
        "name": SWEEP, "about": " and ".join(flag(name) for name in names), "grid": grid, "x": names[0],
        "axis": "log" if numbers else "categories",
    }  # fmt: skip
    return build_study(table, f"moco study {SWEEP}")


def _value(word: str) -> Any:
    """A value as the command line has it: a number, true, false, or a word."""
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return value if isinstance(value, bool | int | float) else word


def plan_rounds(arms: int) -> list[Round]:
    """Plan successive halving: the better half, rounded up, continues with twice the images, down to two arms.

    (Jamieson and Talwalkar, arXiv:1502.07943, with a factor of 2.)
    """
    counts = [arms]
    while counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    return [Round(count, 0.5 ** (len(counts) - 1 - place)) for place, count in enumerate(counts)]


def best_arms(rows: Sequence[Row], arms: Sequence[Arm], count: int) -> list[Arm]:
    """Select the arms with the best means of the first figure, in the study's order; diverged ones rank last."""
    own = {row.arm.name: row for row in rows if row.outcome == rows[0].outcome}
    sign = -1 if rows[0].outcome.lower_is_better else 1
    means = {name: -math.inf if row.mean is None else sign * row.mean for name, row in own.items()}
    kept = sorted(arms, key=lambda arm: -means.get(arm.name, -math.inf))[:count]
    return [arm for arm in arms if arm in kept]
