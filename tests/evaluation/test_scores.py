"""Accuracies equal a plain count, and the paired interval what resampling and theory say."""

import math
import statistics

import numpy as np
import pytest
import torch

from moco.data.images import ArrayImages
from moco.errors import BadInputError, DivergedError
from moco.evaluation.scores import (
    Scores,
    compare_draws,
    compare_scores,
    describe_predictions,
    paired_interval,
    score_logits,
    spread,
)


@pytest.mark.parametrize("classes", [2, 4, 5, 12])
def test_scores_equal_a_plain_count(classes: int) -> None:
    """Top-1 and top-5, with equal logits among them (they are rounded); with few classes top-5 is 100."""
    rng = np.random.default_rng(classes)
    logits, labels = np.round(rng.standard_normal((300, classes)), 1), rng.integers(0, classes, 300)
    first, five = 0, 0
    for row, label in zip(logits, labels, strict=True):
        order = sorted(range(classes), key=lambda c, row=row: (-row[c], c))  # type: ignore[misc]
        first += order[0] == label
        five += int(label) in order[:5]
    found = score_logits(torch.from_numpy(logits), labels)
    assert found.top1 == pytest.approx(100 * first / 300, abs=1e-3)
    assert found.top5 == pytest.approx(100 * five / 300, abs=1e-3)
    assert np.array_equal(found.predicted, logits.argmax(1))
    if classes <= 5:
        assert found.top5 == 100
    assert found.describe(classes) == f"top-1 {found.top1:.2f}%" + (f", top-5 {found.top5:.2f}%" if classes > 5 else "")


def correct(n: int, both: float, only_a: float, only_b: float, seed: int) -> tuple[list[bool], list[bool]]:
    """What two classifiers get right, of n images, with these probabilities."""
    u = np.random.default_rng(seed).random(n)
    a = (u < both) | ((u >= both) & (u < both + only_a))
    b = (u < both) | ((u >= both + only_a) & (u < both + only_a + only_b))
    return a.tolist(), b.tolist()


def test_interval_of_an_example() -> None:
    """Of 100 images 12 only by a and 5 only by b: 7 points, variance (0.17 - 0.0049) / 100."""
    a, b = [True] * 62 + [False] * 38, [True] * 50 + [False] * 12 + [True] * 5 + [False] * 33
    found = paired_interval(a, b)
    reach = 100 * 1.959964 * math.sqrt((0.12 + 0.05 - 0.07**2) / 100)
    assert (found.difference, found.low, found.high) == pytest.approx((7, 7 - reach, 7 + reach), abs=1e-3)


def test_a_baseline_is_shown_with_what_was_gained_over_it() -> None:
    """Its own accuracies, and the paired difference on the same images, of which 5 of 8 and 3 of 8 are right."""
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    found, other = (np.array(row) for row in ([0, 1, 2, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0, 1, 1]))
    gain = compare_scores(Scores(62.5, 100.0, found), Scores(37.5, 90.0, other), truth)
    interval = paired_interval([True] * 5 + [False] * 3, [True, True] + [False] * 5 + [True])
    assert gain == {
        "top1": 37.5, "top5": 90.0, "difference": 25.0, "low": interval.low, "high": interval.high
    }  # fmt: skip


def test_interval_equals_the_bootstrap_s() -> None:
    """Resampling the images 4,000 times: its ends are within a twentieth of the interval's width."""
    a, b = correct(1000, 0.6, 0.08, 0.05, seed=0)
    rows = np.random.default_rng(1).integers(0, 1000, (4000, 1000))
    differences = 100 * (np.array(a, float)[rows].mean(1) - np.array(b, float)[rows].mean(1))
    low, high = np.percentile(differences, [2.5, 97.5])
    found = paired_interval(a, b)
    assert abs(found.low - low) < (high - low) / 20
    assert abs(found.high - high) < (high - low) / 20


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95% of 1,000 experiments, give or take three standard errors (2.1 points)."""
    inside = 0
    for seed in range(1000):
        found = paired_interval(*correct(400, 0.5, 0.1, 0.06, seed))
        inside += found.low <= 4 <= found.high
    assert abs(inside / 10 - 95) < 2.1


@pytest.mark.parametrize("n", [1, 2, 5, 6, 20])
def test_interval_where_one_is_right_everywhere_and_the_other_nowhere(n: int) -> None:
    """Few images prove nothing: the interval leaves 0 out where a sign test at 5% does, from 6 images on."""
    found, opposite = paired_interval([True] * n, [False] * n), paired_interval([False] * n, [True] * n)
    assert (found.difference, found.high) == (100, 100)
    assert (opposite.difference, opposite.low, opposite.high) == (-100, -100, -found.low)
    assert (found.low > 0) == (2 * 0.5**n < 0.05)
    share = (1 + found.low / 100) / 2  # the smallest share that gives n of n in 2.5% of all cases
    assert share**n == pytest.approx(0.025, rel=1e-3)


def test_interval_ends_at_a_hundred_points() -> None:
    """An accuracy has no more, and of two images the normal interval would."""
    found = paired_interval([True, True], [True, False])
    assert (found.difference, found.high) == (50, 100)
    assert found.low < 0


def test_interval_of_the_same_predictions() -> None:
    """No difference, and no doubt about it."""
    found = paired_interval([True, False], [True, False])
    assert (found.difference, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(("a", "b"), [([True], [True, False]), ([], [])])
def test_interval_needs_the_same_images(a: list[bool], b: list[bool]) -> None:
    """The message says how many there were."""
    with pytest.raises(BadInputError, match=rf"same images, got {len(a)} and {len(b)}"):
        paired_interval(a, b)


def test_interval_of_one_draw_is_the_paired_one() -> None:
    """Also where one classifier is right everywhere and the other nowhere."""
    a, b = (np.array(row, int) for row in correct(200, 0.5, 0.1, 0.06, seed=3))
    truth = np.ones(200, int)
    assert compare_draws([a], [b], truth) == paired_interval(a.tolist(), b.tolist())
    assert compare_draws([truth], [1 - truth], truth) == paired_interval([True] * 200, [False] * 200)


def test_interval_over_draws_covers_the_truth() -> None:
    """At least as often as it says: draws and images both leave their mark, and what neither explains counts twice."""
    inside, draws, images, truth = 0, 5, 150, np.ones(150, int)
    rng = np.random.default_rng(0)
    for _ in range(400):
        of_draw, of_image = 0.05 * rng.standard_normal((draws, 1)), 0.1 * rng.standard_normal(images)
        a, b = (rng.random((draws, images)) < 0.6 + shift for shift in (of_draw + of_image, 0 * of_draw))
        found = compare_draws(list(a.astype(int)), list(b.astype(int)), truth)
        inside += found.low <= 0 <= found.high
    assert 92 < inside / 4 < 99.6


def test_interval_over_draws_of_an_example() -> None:
    """Two draws, four images, by hand: leads (0, 1, 1, 0) and (0, 0, 1, 1)."""
    truth = np.zeros(4, int)
    found = compare_draws([np.array([0, 0, 0, 1]), np.array([1, 0, 0, 0])],
                          [np.array([0, 1, 1, 1]), np.array([1, 0, 1, 1])], truth)  # fmt: skip
    variance = statistics.pvariance([0, 0.5, 1, 0.5]) / 4 + statistics.variance([0.5, 0.5]) / 2
    reach = 100 * 1.959964 * math.sqrt(variance)
    assert (found.difference, found.low, found.high) == pytest.approx((50, 50 - reach, 50 + reach), abs=1e-3)


def test_spread() -> None:
    """Mean and sample standard deviation; a single value has none."""
    found = spread([50.0, 52.0, 57.0])
    assert found["mean"] == pytest.approx(53, abs=1e-3)
    assert found["deviation"] == pytest.approx(statistics.stdev([50.0, 52.0, 57.0]), abs=1e-3)
    assert spread([50.0])["deviation"] is None


def test_detail_counts_the_confusions() -> None:
    """Rows are the true classes; where there are very many, only the guesses are kept."""
    pixels = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    labels, guesses = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2])
    found = describe_predictions(ArrayImages(pixels, labels, ("a", "b", "c")), guesses)
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert found["predicted"] == [0, 1, 1, 0, 2]
    many = tuple(f"class {i}" for i in range(201))
    assert "confusion" not in describe_predictions(ArrayImages(pixels, labels, many), guesses)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_no_numbers_have_no_score(value: float) -> None:
    """Sorted they would give the accuracy of some class."""
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    with pytest.raises(DivergedError, match="not finite"):
        score_logits(logits, np.array([0, 1, 2]))
