"""Learning rates against the oracles, and the papers' own epochs."""

import math
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.runtime.schedule import Schedule, is_due, planned_step, raise_to_one
from tests import oracles

steps_and_step = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))


@settings(deadline=None)
@given(position=steps_and_step, lr=st.floats(1e-4, 10), warmup=st.integers(0, 20))
def test_cosine_equals_the_oracle(position: tuple[int, int], lr: float, warmup: int) -> None:
    """Half a cosine over the whole run, after a warm-up that does not shift it."""
    steps, step = position
    later = oracles.cosine_lr(step, steps, lr)
    expected = oracles.warmup(step, warmup, lr if step < warmup else later)
    assert Schedule("cosine", lr, steps, warmup)(step) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@settings(deadline=None)
@given(
    position=steps_and_step,
    lr=st.floats(1e-4, 10),
    warmup=st.integers(0, 20),
    eighths=st.lists(st.integers(1, 7), max_size=3),
    decay=st.sampled_from([0.1, 0.9]),
)
def test_steps_equal_the_oracle(
    position: tuple[int, int], lr: float, warmup: int, eighths: list[int], decay: float
) -> None:
    """Every milestone that was reached multiplies the rate once (milestones in eighths are exact)."""
    steps, step = position
    milestones = tuple(eighth / 8 for eighth in eighths)
    later = oracles.step_lr(step, steps, lr, milestones, decay)
    expected = oracles.warmup(step, warmup, lr if step < warmup else later)
    schedule = Schedule("step", lr, steps, warmup, milestones, decay)
    assert schedule(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("epoch", "expected"), [
    (0, 0.03), (119, 0.03), (120, 0.003), (159, 0.003), (160, 0.0003), (199, 0.0003),
])  # fmt: skip
@pytest.mark.parametrize("steps_per_epoch", [1, 97, 5004])
def test_v1_decays_at_epochs_120_and_160(epoch: int, expected: float, steps_per_epoch: int) -> None:
    """By default the rate falls at the first step of epochs 120 and 160 of 200, for any number of steps an epoch."""
    schedule = Schedule("step", 0.03, 200 * steps_per_epoch)
    first, last = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1
    assert schedule(first) == pytest.approx(expected, rel=1e-12)
    assert schedule(last) == pytest.approx(expected, rel=1e-12)


def test_cosine_goes_from_the_rate_to_nearly_nothing() -> None:
    """It starts at lr, is half of it in the middle, and ends just above 0."""
    schedule = Schedule("cosine", 0.06, 1000)
    assert schedule(0) == 0.06
    assert schedule(500) == pytest.approx(0.03)
    assert 0 < schedule(999) < 1e-6


@settings(deadline=None)
@given(position=steps_and_step, lr=st.floats(1e-4, 10), warmup=st.integers(0, 20))
def test_a_cosine_after_the_warm_up(position: tuple[int, int], lr: float, warmup: int) -> None:
    """Half a cosine over the steps that the warm-up leaves, from the full rate (v3)."""
    steps, step = position
    schedule = Schedule("cosine-after-warmup", lr, steps, warmup)
    if step < warmup:
        assert schedule(step) == pytest.approx(oracles.warmup(step, warmup, lr), rel=1e-12)
    else:
        expected = oracles.cosine_lr(step - warmup, steps - warmup, lr)
        assert schedule(step) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_momentum_that_rises() -> None:
    """By the formula of v3's section 4, at the start, a third, half and the end of 12 steps."""
    found = [raise_to_one(0.9, step, 12) for step in (0.0, 4.0, 6.0, 12.0)]
    assert found == pytest.approx([0.9, 1 - 0.1 * 0.75, 0.95, 1.0], abs=1e-15)


def test_warm_up_rises_in_equal_steps() -> None:
    """The first step already trains, and the last of the warm-up has the full rate."""
    schedule = Schedule("step", 1.0, 100, warmup_steps=4)
    assert [schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("every", "last", "due"),
    [(3, None, [0, 3, 6]), (3, 7, [0, 3, 6, 7]), (0, 7, []), (1, 7, [0, 1, 2, 3, 4, 5, 6, 7]), (100, 7, [0, 7])],
)
def test_what_is_due(every: int, last: int | None, due: list[int]) -> None:
    """Every so many steps, and after the last where that is asked for; with 0 never."""
    assert [step for step in range(8) if is_due(step, every, last)] == due


@settings(deadline=None, max_examples=30)
@given(
    turns=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 200)), max_size=4),
    kind=st.sampled_from(["step", "cosine"]),
)
def test_a_length_that_is_planned_again_stretches_the_rest(
    turns: list[tuple[int, int]], kind: Literal["step", "cosine"]
) -> None:
    """By a plain walk: each step advances by what is left of the first plan, shared out over the steps to come."""
    first = length = turns[0][0] + turns[0][1] if turns else 50
    earlier, step = list[tuple[int, int]](), 0
    for apart, more in turns:
        step += apart
        if step >= length:
            break
        earlier.append((step, length))
        length = step + more
    schedule = Schedule(kind, 0.5, length, 5, earlier=tuple(earlier))
    plain, place, steps = Schedule(kind, 0.5, first, 5), 0.0, dict(earlier)
    lengths = [own for _, own in earlier] + [length]
    for step in range(length):
        if step in steps:
            lengths.pop(0)
        assert planned_step(step, length, tuple(earlier)) == pytest.approx(place, abs=1e-6)
        if kind == "cosine" and place >= 5:
            assert schedule(step) == pytest.approx(0.25 * (1 + math.cos(math.pi * place / first)), abs=1e-6)
        if not earlier:
            assert schedule(step) == plain(step)
        place += (first - place) / (lengths[0] - step)
    assert place == pytest.approx(first)
