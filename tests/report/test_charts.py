"""Curves: axes that hold the figures, lines where they belong, extremes that are never lost."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moco.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    Curve,
    Level,
    chart,
    scale,
    thin_points,
)
from tests.report.folders import Parsed

finite = st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: 0.0 if abs(value) < 1e-9 else value)


@given(st.lists(finite, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_figures(values: list[float], tight: bool) -> None:
    """All lie between the ends, as do the ticks; these are few, evenly spaced, and their texts differ."""
    low, high, ticks = scale(values, tight=tight)
    assert low < high
    slack = 1e-9 * max(abs(low), abs(high))
    assert low - slack <= min(values)
    assert max(values) <= high + slack
    places, texts = zip(*ticks, strict=True) if ticks else ((), ())
    assert all(low - slack <= place <= high + slack for place in places)
    assert len(places) <= 8
    steps = [b - a for a, b in pairwise(places)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-4, abs_tol=1e-9) for step in steps)
    assert all(re.fullmatch(r"[\u2212-]?[\d.]+([kMG]|e[+-]\d\d)?", text) for text in texts)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 1950.0], ["0", "500", "1000", "1500", "2000"]),
        ([0.2, 4.85], ["0", "1", "2", "3", "4", "5"]),
        ([0.0, 0.06], ["0.00", "0.02", "0.04", "0.06"]),
        ([0.0, 200_000.0], ["0", "50k", "100k", "150k", "200k"]),
        ([26.8, 50.95], ["25", "30", "35", "40", "45", "50", "55"]),
        ([-3.1, -0.2], ["\u22124", "\u22123", "\u22122", "\u22121", "0"]),
        ([0.0, 12.0], ["0.0", "2.5", "5.0", "7.5", "10.0", "12.5"]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], texts: list[str]) -> None:
    """As a person would choose them."""
    assert [text for _, text in scale(values)[2]] == texts


def test_a_line_runs_through_its_points() -> None:
    """The drawn places, turned back by the axes' ticks, are the points."""
    points = [(0.0, 4.0), (10.0, 2.0), (20.0, None), (30.0, 3.0), (40.0, 1.0)]
    found = Parsed(chart("x", "T", [Curve("a", points)], Axes("step", "loss"), [Level("chance", 4.5)]))
    assert found.trouble == []
    (line,) = (a["d"] or "" for a in found.all("path"))
    drawn = [(pen, float(x), float(y)) for pen, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", line)]
    assert [pen for pen, _, _ in drawn] == ["M", "L", "M", "L"]  # a gap where there is no figure
    for (_, x, y), (place, value) in zip(drawn, [p for p in points if p[1] is not None], strict=True):
        assert value is not None
        assert x == pytest.approx(LEFT + place / 40 * (WIDTH - LEFT - RIGHT), abs=0.1)
        assert y == pytest.approx(TOP + (5 - value) / 4 * (HEIGHT - TOP - BOTTOM), abs=0.1)  # the axis: 1 to 5
    assert len(found.all("circle")) == 4


def test_a_long_text_at_an_end_of_the_axis_is_whole() -> None:
    """Half of a name at the right end of a study's chart lay outside the picture."""
    ends = ((0.0, "normalised in 4 groups"), (1.0, "over the whole batch"))
    drawn = chart("x", "T", [Curve("a", [(0.0, 1.0), (1.0, 2.0)])], Axes("arm", "%", ticks=ends))
    for _, text in ends:
        (x,) = re.findall(rf'x="([\d.]+)"[^>]*>{text}<', drawn)
        assert 4 * len(text) <= float(x) <= WIDTH - 4 * len(text)


@pytest.mark.parametrize("seed", range(8))
def test_thinning_loses_no_extreme(seed: int) -> None:
    """Ends and extremes stay, in order; not many more than MOST_POINTS are left. Some figures are missing."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(MOST_POINTS + 1, 8 * MOST_POINTS))
    values = [None if rng.random() < seed / 7 else float(rng.normal()) for _ in range(count)]
    points = [(float(i), value) for i, value in enumerate(values)]
    kept = thin_points(points)
    assert len(kept) <= MOST_POINTS + 2
    assert kept == sorted(kept, key=lambda point: point[0])
    assert set(kept) <= set(points)
    assert {points[0], points[-1]} <= set(kept)
    there = [value for value in values if value is not None]
    left = [value for _, value in kept if value is not None]
    assert (max(left), min(left)) == (max(there), min(there)) if there else not left


def test_no_figure_no_chart() -> None:
    """Neither without points nor where none is finite."""
    assert chart("x", "T", [Curve("a", []), Curve("b", [(1.0, None)])], Axes("step", "loss")) == ""
