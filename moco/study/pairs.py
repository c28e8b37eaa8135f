"""Differences of arms by pairs of runs with one seed, and how many seeds a difference needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from moco.study.rows import Row

POWER = 0.8
"""Chance with which a study finds a difference that it is said to resolve."""
ASSUMED_DEVIATION = 1.0
"""Points by which a figure varies over seeds, apart from what the seed does to all arms, where no cell is known yet."""
DISCORDANT = 0.2
"""Assumed share of the test images on which exactly one of two arms is right."""


@dataclass(frozen=True)
class Fit:
    """Figures as the sum of an arm's and a seed's effect, by least squares (a two-way layout without interaction)."""

    effects: NDArray[np.float64]
    covariance: NDArray[np.float64]
    """The covariance of the effects, divided by the residual variance."""
    known: NDArray[np.float64]
    """Projects a contrast onto those that the cells can tell."""
    names: tuple[str, ...]
    """The rows, whose effects come first."""
    deviation: float
    """How far one cell lies from arm and seed together, in points."""
    freedom: int

    def difference(self, better: str, worse: str) -> tuple[float, float] | None:
        """Return the difference of two rows and its standard error; None where no chain of common seeds joins them."""
        contrast = np.zeros(len(self.effects))
        contrast[self.names.index(better)] += 1
        contrast[self.names.index(worse)] -= 1
        if not np.allclose(self.known @ contrast, contrast, atol=1e-8):
            return None
        return float(contrast @ self.effects), self.deviation * math.sqrt(contrast @ self.covariance @ contrast)


def fit_effects(rows: Sequence[Row]) -> Fit:
    """Fit the effects of all rows, and of all seeds of each figure, to the cells that there are; some may lack.

    With two arms this is the paired t-test. Rows of several figures of one kind share the residual variance.
    """
    filled = [row for row in rows if row.values]
    blocks = sorted({(row.outcome.name, seed) for row in filled for seed in row.seeds})
    cells = [
        (place, blocks.index((row.outcome.name, seed)), value)
        for place, row in enumerate(filled)
        for seed, value in zip(row.seeds, row.values, strict=True)
    ]
    design = np.zeros((len(cells), len(filled) + len(blocks)))
    for number, (place, block, _) in enumerate(cells):
        design[number, [place, len(filled) + block]] = 1
    figures = np.array([value for _, _, value in cells])
    inverse = np.linalg.pinv(design)
    effects = inverse @ figures
    freedom = len(cells) - int(np.linalg.matrix_rank(design)) if cells else 0
    squares = float(((figures - design @ effects) ** 2).sum())
    deviation = math.sqrt(squares / freedom) if freedom else 0.0
    names = tuple(row.name for row in filled)
    return Fit(effects, inverse @ inverse.T, inverse @ design, names, deviation, freedom)


def resolved_difference(deviation: float, seeds: int, arms: int) -> float:
    """Return the smallest difference of two arms that a study tells with probability POWER, at 95% confidence.

    (t_0.975 + t_POWER) * deviation * sqrt(2 / seeds), with (arms - 1) (seeds - 1) degrees of freedom. Infinite with
    one seed or one arm.
    """
    freedom = (arms - 1) * (seeds - 1)
    if freedom < 1:
        return math.inf
    reach = float(stats.t.ppf(0.975, freedom) + stats.t.ppf(POWER, freedom))
    return reach * deviation * math.sqrt(2 / seeds)


def seeds_to_resolve(difference: float, deviation: float, arms: int, most: int) -> int | None:
    """Return the fewest seeds, from 2 up to `most`, that tell this difference; None where those are not enough."""
    enough = (seeds for seeds in range(2, most + 1) if resolved_difference(deviation, seeds, arms) <= difference)
    return next(enough, None)


def sampling_error(images: int) -> float:
    """Return by how many points (95%, McNemar) the choice of test images moves a difference of two arms."""
    return 100 * 1.96 * math.sqrt(DISCORDANT / images)


def images_to_resolve(difference: float) -> int:
    """Test images with which `sampling_error` is no larger than the difference."""
    return math.ceil(DISCORDANT * (196 / difference) ** 2)
