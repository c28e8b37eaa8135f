"""Paired differences against scipy's tests and the closed form of a two-way layout; power against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from moco.study.definition import Arm
from moco.study.pairs import (
    fit_effects,
    images_to_resolve,
    resolved_difference,
    sampling_error,
    seeds_to_resolve,
)
from moco.study.rows import Row
from tests.study.test_statistics import KNN, row


def test_two_arms_are_a_paired_t_test() -> None:
    """Difference, standard error and degrees of freedom are those of the t-test of the pairs in scipy."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(50, 3, (2, 5))
    fit = fit_effects([row("a", a.tolist()), row("b", b.tolist())])
    found = fit.difference("a", "b")
    assert found is not None
    expected = stats.ttest_1samp(a - b, 0)
    assert found[0] == pytest.approx(np.mean(a - b))
    assert found[0] / found[1] == pytest.approx(expected.statistic)
    assert fit.freedom == expected.df


def test_many_arms_share_the_residual_of_the_two_way_layout() -> None:
    """Without missing cells the residuals are what row and column means leave, with (A - 1) (S - 1) degrees."""
    table = np.random.default_rng(1).normal(np.array([[0.0], [1.0], [5.0], [2.0]]), 1, (4, 3))
    fit = fit_effects([row(str(i), values.tolist()) for i, values in enumerate(table)])
    left = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    assert fit.freedom == 6
    assert fit.deviation == pytest.approx(math.sqrt((left**2).sum() / 6))
    found = fit.difference("2", "0")
    assert found is not None
    assert found == pytest.approx((table[2].mean() - table[0].mean(), fit.deviation * math.sqrt(2 / 3)))


def test_a_seed_that_only_one_arm_has_tells_nothing_of_the_difference() -> None:
    """Two arms with two common seeds of three; and none without a common one."""
    long = Row("a", Arm("a"), KNN, (50.0, 52.0, 90.0), of_seeds=(0, 1, 2))
    short = Row("b", Arm("b"), KNN, (49.0, 50.0), of_seeds=(0, 1))
    found = fit_effects([long, short]).difference("a", "b")
    assert found is not None
    assert found[0] == pytest.approx(1.5)
    apart = Row("b", Arm("b"), KNN, (49.0, 50.0), of_seeds=(3, 4))
    assert fit_effects([long, apart]).difference("a", "b") is None


def test_what_a_study_resolves_is_found_in_four_of_five() -> None:
    """Simulated studies of four arms and four seeds with exactly that difference."""
    rng, seeds, studies = np.random.default_rng(2), 4, 500
    gap = resolved_difference(1.5, seeds, 4)
    holds = 0
    for _ in range(studies):
        table = rng.normal(0, 1.5, (4, seeds)) + rng.normal(0, 5, seeds)
        table[0] += gap
        fit = fit_effects([row(str(i), values.tolist()) for i, values in enumerate(table)])
        found = fit.difference("0", "1")
        assert found is not None
        holds += found[0] > stats.t.ppf(0.975, fit.freedom) * found[1]
    assert holds / studies == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / studies))


def test_seeds_for_a_difference() -> None:
    """The fewest that suffice; more for a smaller one; none where the limit is too low, or with a single arm."""
    needed = seeds_to_resolve(1.0, 1.0, 3, 100)
    assert needed is not None
    assert resolved_difference(1.0, needed, 3) <= 1 < resolved_difference(1.0, needed - 1, 3)
    assert seeds_to_resolve(0.1, 1.0, 3, 100) is None
    assert resolved_difference(1.0, 1, 3) == resolved_difference(1.0, 9, 1) == math.inf


@pytest.mark.parametrize("difference", [0.5, 1.0, 3.0])
def test_test_images_for_a_difference(difference: float) -> None:
    """With so many images the choice of images moves no more than that, and with fewer more."""
    images = images_to_resolve(difference)
    assert sampling_error(images) <= difference < sampling_error(images - 1)
