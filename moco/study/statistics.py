"""What cells measured -> means, spreads, agreement with the paper's order, and which claims hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from moco.study.definition import Claim, Study
from moco.study.pairs import fit_effects
from moco.study.rows import Row

DRAWS = 2000
"""Draws of the figures from their uncertainty, for the interval of tau."""
SURE = 0.95
UNDECIDED = "is undecided"
NOT_WORSE_BY = 1.0
"""Points that an arm which is "not worse" may be worse by."""
TEST_IMAGES = 1000
"""Assumed where a single seed's error must be guessed and the number of test images is not known."""


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
    """Half of the interval of the difference."""
    verdict: str
    """holds, does not hold, is undecided."""
    unpaired: float = math.inf
    """Half of the interval that the deviations of the arms give, without pairing their seeds."""


def standard_errors(some: Sequence[Row]) -> dict[str, float]:
    """Return each row's standard error of the mean, by the deviation pooled over its outcome's rows.

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
    fellows = _fellows(row, some)
    freedom = sum(len(other.values) - 1 for other in fellows)
    squares = sum((len(other.values) - 1) * (other.deviation or 0.0) ** 2 for other in fellows)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def _fellows(row: Row, some: Sequence[Row]) -> list[Row]:
    """The rows of the same kind of figure that have values."""
    kind = row.outcome.key.split(".")[-1]
    return [other for other in some if other.outcome.key.split(".")[-1] == kind and other.values]


def agreement(some: Sequence[Row], seed: int = 0) -> Agreement | None:
    """Return how far the order of the means is the paper's; None where fewer than three rows have both.

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


def judge_claims(study: Study, some: Sequence[Row], sure: float = SURE) -> list[Judged]:
    """Return each claim against the difference of its two rows, with the interval of this confidence.

    The interval is Student's t on what seeds and arms together leave unexplained (`fit_effects`): arms with one seed
    have their initial weights and the draws of their views in common. With a single seed nothing can be paired, and
    the interval is that of the two figures.
    """
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
        difference = better.mean - worse.mean
        _, freedom = _pooled(better, some)
        error = unpaired = _reach(sure, freedom) * math.hypot(errors[better.name], errors[worse.name])
        fit = fit_effects(_fellows(better, some))
        paired = fit.difference(better.name, worse.name) if fit.freedom and worse.name in fit.names else None
        if paired is not None:
            difference, error = paired[0], _reach(sure, fit.freedom) * paired[1]
        difference *= -1 if better.outcome.lower_is_better else 1
        found.append(Judged(claim, difference, error, _decide(claim, difference, error), unpaired))
    return found


def _reach(sure: float, freedom: int) -> float:
    """How many standard errors an interval of this confidence reaches to either side."""
    return float(stats.t.ppf((1 + sure) / 2, freedom) if freedom else stats.norm.ppf((1 + sure) / 2))


def _decide(claim: Claim, difference: float, error: float) -> str:
    if claim.not_worse:
        holds, against = difference - error > -NOT_WORSE_BY, difference + error < 0
    else:
        holds, against = difference > error, difference < -error
    return "holds" if holds else "does not hold" if against else UNDECIDED


# --- claims that are settled before the last seed -------------------------------------------------------------------


def looks_level(seeds: int) -> float:
    """Return the confidence of each look at a study of so many seeds, so that all looks together are wrong in 5%.

    A study that leaves out settled arms looks after 2, 3, ... seeds: 1 - 0.05 / (seeds - 1) each (Bonferroni).
    """
    return 1 - (1 - SURE) / max(1, seeds - 1)


def arms_to_go_on(study: Study, some: Sequence[Row], seeds: int) -> set[str]:
    """Return the arms whose next seed can still matter: those in a claim that is undecided at the level of one look.

    An arm in no claim goes on: the order of the arms, and the chart, need it.
    """
    settled = {
        (one.claim.better, one.claim.worse)
        for one in judge_claims(study, some, looks_level(seeds))
        if one.verdict != UNDECIDED
    }
    owner = {row.name: row.arm.name for row in some}
    concerned, open_arms = set(), set()
    for claim in study.claims:
        pair = {owner.get(name, name) for name in (claim.better, claim.worse)}
        concerned |= pair
        open_arms |= set() if (claim.better, claim.worse) in settled else pair
    return {row.arm.name for row in some if row.arm.name in open_arms or row.arm.name not in concerned}
