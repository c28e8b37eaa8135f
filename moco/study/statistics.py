"""What cells measured -> means, spreads, agreement with the paper's order, and which claims hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from moco.study.definition import Arm, Claim, Outcome, Study, row_name

DRAWS = 2000
"""Draws of the figures from their uncertainty, for the interval of tau."""
SURE = 0.95
NOT_WORSE_BY = 1.0
"""Points that an arm which is "not worse" may be worse by."""
TEST_IMAGES = 1000
"""Assumed where a single seed's error must be guessed and the number of test images is not known."""


@dataclass(frozen=True)
class Row:
    """One arm's figure: what was measured over the seeds, and the paper's number."""

    name: str
    arm: Arm
    outcome: Outcome
    values: tuple[float, ...]
    """The figure of each seed that was trained to the end."""
    diverged: int = 0

    @property
    def mean(self) -> float | None:
        """None where no seed came to the end."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None of fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def paper(self) -> float | None:
        """The paper's number for it."""
        return self.outcome.paper if self.outcome.paper is not None else self.arm.paper

    @property
    def series(self) -> str:
        """The curve that it belongs to."""
        return self.outcome.series or self.arm.series

    @property
    def x(self) -> float | str:
        """Its place on the x axis."""
        own = self.outcome.x if self.outcome.x is not None else self.arm.x
        return self.arm.name if own is None else own


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between the order of the figures here and in the paper."""

    tau: float
    low: float
    high: float
    """The ends of the 95% interval that follows from the spread over seeds."""
    p: float
    """Chance that orders without any relation agree as much or disagree as much."""
    rows: int


@dataclass(frozen=True)
class Judged:
    """A claim of the paper against the figures here."""

    claim: Claim
    difference: float
    error: float
    """Half of the 95% interval of the difference."""
    verdict: str
    """holds, does not hold, is undecided."""


def rows(study: Study, arms: Sequence[Arm], results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each arm and outcome, in the study's order."""
    made = []
    for outcome in study.outcomes:
        for arm in arms:
            own = [result for result in results if result["arm"] == arm.name]
            values = [result["figures"].get(outcome.name) for result in own]
            diverged = sum(result["state"] == "diverged" for result in own)
            there = tuple(float(value) for value in values if value is not None)
            made.append(Row(row_name(study, arm, outcome), arm, outcome, there, diverged))
    return made


def standard_errors(some: Sequence[Row]) -> dict[str, float]:
    """Standard error of each row's mean: the deviation pooled over its outcome's rows, over the root of its seeds.

    With a single seed, where nothing can be pooled: of a percentage, that over TEST_IMAGES images; of anything else,
    the figure itself.
    """
    errors = {}
    for row in some:
        spread, freedom = _pooled(row, some)
        if not freedom and "%" in row.outcome.name:
            share = min(max((row.mean or 0.0) / 100, 0.01), 0.99)
            spread = 100 * math.sqrt(share * (1 - share) / TEST_IMAGES)
        elif not freedom:  # nothing is known of it
            spread = abs(row.mean or 0.0)
        errors[row.name] = spread / math.sqrt(max(1, len(row.values)))
    return errors


def _pooled(row: Row, some: Sequence[Row]) -> tuple[float, int]:
    """The deviation over seeds, pooled over all rows of the same kind of figure, and its degrees of freedom."""
    kind = row.outcome.key.split(".")[-1]
    fellows = [other for other in some if other.outcome.key.split(".")[-1] == kind and other.values]
    freedom = sum(len(other.values) - 1 for other in fellows)
    squares = sum((len(other.values) - 1) * (other.deviation or 0.0) ** 2 for other in fellows)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def agreement(some: Sequence[Row], seed: int = 0) -> Agreement | None:
    """How far the order of the means is the paper's; None where fewer than three rows have both.

    An arm that the paper says fails, or that diverged here with every seed, stands below all others. The interval is of
    taus of figures drawn from normal distributions around the means (a parametric bootstrap over seeds).
    """
    compared = [row for row in some if (row.paper is not None or row.arm.fails) and (row.values or row.diverged)]
    if len(compared) < 3:
        return None
    sign = np.array([-1.0 if row.outcome.lower_is_better else 1.0 for row in compared])
    paper = np.array([-math.inf if row.paper is None else row.paper for row in compared])
    here = np.array([-math.inf if row.mean is None else row.mean for row in compared]) * sign
    errors = standard_errors(some)
    noise = np.random.default_rng(seed).standard_normal((DRAWS, len(compared))) * [errors[row.name] for row in compared]
    drawn = [_tau(here + one, paper)[0] for one in noise]
    tau, p = _tau(here, paper)
    low, high = (float(value) for value in np.quantile(drawn, [(1 - SURE) / 2, (1 + SURE) / 2]))
    return Agreement(tau, low, high, p, len(compared))


def _tau(here: Any, paper: Any) -> tuple[float, float]:
    found = stats.kendalltau(stats.rankdata(here), stats.rankdata(paper))
    tau, p = float(found.statistic), float(found.pvalue)
    return (0.0, 1.0) if math.isnan(tau) else (tau, p)


def judge_claims(study: Study, some: Sequence[Row]) -> list[Judged]:
    """Each claim against the difference of the two means, with its 95% interval by Student's t on pooled deviations."""
    by_name, errors = {row.name: row for row in some}, standard_errors(some)
    found = []
    for claim in study.claims:
        better, worse = by_name.get(claim.better), by_name.get(claim.worse)
        if better is None or worse is None or better.mean is None:
            continue
        if worse.mean is None:
            if worse.diverged:
                found.append(Judged(claim, math.inf, 0.0, "holds"))
            continue
        difference = (better.mean - worse.mean) * (-1 if better.outcome.lower_is_better else 1)
        _, freedom = _pooled(better, some)
        reach = float(stats.t.ppf((1 + SURE) / 2, freedom)) if freedom else float(stats.norm.ppf((1 + SURE) / 2))
        error = reach * math.hypot(errors[better.name], errors[worse.name])
        if claim.not_worse:
            sure, against = difference - error > -NOT_WORSE_BY, difference + error < 0
        else:
            sure, against = difference > error, difference < -error
        verdict = "holds" if sure else "does not hold" if against else "is undecided"
        found.append(Judged(claim, difference, error, verdict))
    return found
