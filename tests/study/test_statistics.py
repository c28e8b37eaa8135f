"""Agreement and claims of a study, against counting pairs by hand and known figures."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from moco.study import statistics
from moco.study.definition import Arm, Claim, Outcome, Study
from moco.study.rows import Row
from moco.study.statistics import agreement, arms_to_go_on, judge_claims, looks_level, standard_errors
from tests.slow import slow


@pytest.fixture(autouse=True)
def rough_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer draws, in a tenth of the time."""
    monkeypatch.setattr(statistics, "DRAWS", 200)


KNN = Outcome("kNN top-1 (%)", "knn.top1")


def row(name: str, values: list[float], paper: float | None = None, **arm: Any) -> Row:
    """A row of the table."""
    return Row(name, Arm(name, paper=paper, **arm), KNN, tuple(values))


def tau_b(a: list[float], b: list[float]) -> float:
    """Kendall's tau-b by its definition: concordant less discordant pairs, ties taken out of both counts."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    agree = sum((a[i] > a[j]) - (a[i] < a[j]) == (b[i] > b[j]) - (b[i] < b[j]) != 0 for i, j in pairs)
    against = sum((a[i] > a[j]) - (a[i] < a[j]) == -((b[i] > b[j]) - (b[i] < b[j])) != 0 for i, j in pairs)
    untied = [sum(values[i] != values[j] for i, j in pairs) for values in (a, b)]
    return (agree - against) / math.sqrt(untied[0] * untied[1])


@pytest.mark.parametrize("seed", range(4))
def test_tau_equals_counting_pairs(seed: int) -> None:
    """Also with ties in the paper's numbers."""
    rng = np.random.default_rng(seed)
    here, paper = rng.normal(50, 5, 7).tolist(), rng.integers(55, 60, 7).astype(float).tolist()
    found = agreement([row(f"a{i}", [x], y) for i, (x, y) in enumerate(zip(here, paper, strict=True))])
    assert found is not None
    assert found.tau == pytest.approx(tau_b(here, paper))
    assert found.low <= found.high


def test_an_arm_that_fails_stands_below() -> None:
    """In the paper, and here where it diverged."""
    some = [row("a", [40.0, 41.0], 55.0), row("b", [50.0, 51.0], 60.0), row("c", [30.0, 31.0], None, fails=True)]
    found = agreement(some)
    assert found is not None
    assert (found.tau, found.low, found.high) == (1, 1, 1)
    diverged = Row("c", Arm("c", fails=True), KNN, (), diverged=2)
    again = agreement([*some[:2], diverged])
    assert again is not None
    assert again.tau == 1
    assert agreement(some[:2]) is None


def test_noise_widens_the_interval() -> None:
    """Arms that differ by less than seeds do is undecided to be in the paper's order."""
    sure = agreement([row(str(i), [10.0 * i, 10.0 * i + 0.1], 50.0 + i) for i in range(4)])
    noisy = agreement([row(str(i), [i - 20.0, i + 20.0], 50.0 + i) for i in range(4)])
    assert sure is not None
    assert noisy is not None
    assert sure.low == sure.high == 1
    assert noisy.low < 0 < noisy.high


def test_errors_are_pooled() -> None:
    """The root of the mean variance over all arms, over the root of the number of seeds."""
    some = [row("a", [1.0, 3.0]), row("b", [10.0, 16.0]), row("c", [5.0])]
    pooled = math.sqrt((2.0 + 18.0) / 2)
    assert standard_errors(some) == pytest.approx({"a": pooled / math.sqrt(2), "b": pooled / math.sqrt(2), "c": pooled})


def test_claims() -> None:
    """Against the t intervals by hand: paired with two degrees of freedom, unpaired with four, whose t is 2.776."""
    some = [row("a", [50.0, 51.0, 52.5]), row("b", [40.0, 41.0, 42.0]), row("c", [50.0, 50.5, 53.0])]
    study = Study("s", "s", tuple(r.arm for r in some), claims=(
        Claim("x", "a", "b"), Claim("x", "b", "a"), Claim("x", "a", "c"), Claim("x", "b", "a", not_worse=True),
    ))  # fmt: skip
    found = judge_claims(study, some)
    assert [one.verdict for one in found] == ["holds", "does not hold", "is undecided", "does not hold"]
    pair = judge_claims(study, some[:2])[0]
    differences = [10.0, 10.0, 10.5]
    assert pair.difference == pytest.approx(np.mean(differences))
    assert pair.error == pytest.approx(4.302653 * np.std(differences, ddof=1) / math.sqrt(3))
    assert pair.unpaired == pytest.approx(2.776445 * math.sqrt((np.var([50, 51, 52.5], ddof=1) + 1) / 3))


def test_arms_are_left_out_only_where_every_claim_is_settled() -> None:
    """An arm in an undecided claim goes on, and one in no claim."""
    some = [row("a", [50.0, 51.1]), row("b", [40.0, 41.0]), row("c", [50.1, 50.9]), row("d", [30.0, 31.1])]
    arms = tuple(r.arm for r in some)
    settled = Study("s", "s", arms, claims=(Claim("x", "a", "b"),))
    assert arms_to_go_on(settled, some, seeds=3) == {"c", "d"}
    open_too = Study("s", "s", arms, claims=(Claim("x", "a", "b"), Claim("x", "a", "c")))
    assert arms_to_go_on(open_too, some, seeds=3) == {"a", "c", "d"}


@pytest.mark.parametrize("gap", [0.0, slow(3.0)])
def test_looking_after_each_seed_errs_in_five_of_a_hundred(gap: float) -> None:
    """Without a difference few studies settle; with a large one most do, early, and on the right side."""
    rng, wrong, early, studies, seeds = np.random.default_rng(1), 0, 0, 400, 5
    study = Study("s", "s", (Arm("a"), Arm("b"), Arm("c")), claims=(Claim("x", "a", "b"),))
    for _ in range(studies):
        common = rng.normal(0, 2, seeds)
        figures = {name: 50 + common + rng.normal(0, 0.5, seeds) for name in "abc"}
        figures["a"] += gap
        for seen in range(2, seeds + 1):
            some = [row(name, values[:seen].tolist()) for name, values in figures.items()]
            if arms_to_go_on(study, some, seeds) == {"c"}:
                side = judge_claims(study, some, looks_level(seeds))[0].verdict
                wrong += side == "does not hold" or gap == 0
                early += seen < seeds
                break
    assert wrong / studies < 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    assert (early > 0.9 * studies) == (gap > 0)
