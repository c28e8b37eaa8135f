"""A time budget becomes a number of steps, looks and checkpoints that together take it, by simulation."""

import math

import pytest

from moco.pretraining import pace as module
from moco.pretraining.pace import Budget, Costs, Evaluation, Pace, plan_evaluation, plan_joining, plan_pace, plan_trial


def simulate(pace: Pace, costs: Costs) -> float:
    """Walk through the run, step by step, as the loop does, and add up what each part takes."""
    seconds = costs.start + costs.evaluation
    for step in range(pace.max_steps):
        if pace.knn_every and step % pace.knn_every == 0:
            seconds += costs.look
        seconds += costs.step
        if step + 1 == pace.max_steps or (step + 1) % pace.checkpoint_every == 0:
            seconds += costs.save
    return seconds + (costs.look if pace.knn_every else 0.0)


COSTS = [
    Costs(step=0.2),
    Costs(step=0.25, start=4.0, look=3.0, save=1.0, evaluation=20.0),
    Costs(step=0.02, start=2.0, look=0.5, save=0.1, evaluation=5.0),
    Costs(step=3.0, start=5.0, look=14.0, save=2.0, evaluation=40.0),
]


@pytest.mark.parametrize("left", [200.0, 540.0, 3500.0])
@pytest.mark.parametrize("costs", COSTS, ids=str)
def test_a_run_takes_the_time_that_is_left(costs: Costs, left: float) -> None:
    """Between 92 and 98% of it by simulation, with everything counted: 4% are kept back."""
    pace = plan_pace(left, costs)
    assert 0.92 * left <= simulate(pace, costs) <= 0.98 * left
    assert pace.training == pytest.approx(pace.max_steps * costs.step, rel=0.03)


@pytest.mark.parametrize("costs", COSTS[1:], ids=str)
def test_looks_take_their_share(costs: Costs) -> None:
    """A twentieth, unless the two that are always made take more; there are no more than twenty."""
    for left in (100.0, 600.0, 36_000.0):
        pace = plan_pace(left, costs)
        assert 2 <= pace.looks <= module.MOST_LOOKS
        assert pace.looks == 2 or pace.looks * costs.look <= 0.05 * left
        assert len(range(0, pace.max_steps, pace.knn_every)) + 1 == pace.looks


@pytest.mark.parametrize("knn_every", [0, 7, 100])
def test_looks_that_are_given_stay(knn_every: int) -> None:
    """The steps make room for them."""
    costs = COSTS[1]
    pace = plan_pace(540.0, costs, knn_every=knn_every)
    assert pace.knn_every == knn_every
    assert 0.9 * 540 <= simulate(pace, costs) <= 540


def test_a_length_that_is_given_stays() -> None:
    """Whatever the time says."""
    pace = plan_pace(540.0, COSTS[1], max_steps=100)
    assert (pace.max_steps, math.ceil(100 / pace.knn_every) + 1) == (100, pace.looks)


def test_a_short_run_is_not_evaluated_at_each_step() -> None:
    """Before the first of 12 steps, after 10 and at the end, however cheap that is."""
    pace = plan_pace(540.0, Costs(step=0.1, look=0.001), max_steps=12)
    assert (pace.knn_every, pace.looks) == (10, 3)


@pytest.mark.parametrize("left", [-50.0, 0.0, 1e-9])
def test_no_time_is_a_run_of_one_step(left: float) -> None:
    """With a look before and after it."""
    pace = plan_pace(left, COSTS[3])
    assert (pace.max_steps, pace.knn_every, pace.checkpoint_every, pace.looks) == (1, 1, 1, 2)


def test_checkpoints_are_a_minute_apart() -> None:
    """Or further where they take long."""
    assert plan_pace(3600.0, Costs(step=0.5, save=0.1)).checkpoint_every == 120
    assert plan_pace(3600.0, Costs(step=0.5, save=5.0)).checkpoint_every == 500


@pytest.mark.parametrize(("step", "every"), [(0.001, 1000), (0.1, 50), (4.0, 1), (60.0, 1)])
def test_a_line_comes_every_five_seconds(step: float, every: int) -> None:
    """Or with every step, where that takes longer."""
    assert plan_pace(3600.0, Costs(step=step)).log_every == every


def test_the_clock_counts_all_but_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the time that it is given."""
    now = [100.0]
    monkeypatch.setattr("moco.pretraining.pace.time.monotonic", lambda: now[0])
    budget = Budget(60.0, started=90.0)
    now[0] += 5
    assert (budget.spent, budget.left) == (15.0, 45.0)
    with budget.paused():
        now[0] += 1000
    assert budget.left == 45.0
    now[0] += 50
    assert budget.left == -5.0


@pytest.mark.parametrize(
    ("limit", "alone", "published", "pixels", "found"),
    [
        (9.0, 10.0, 0.0, 0.0, Evaluation(0.0)),
        (15.0, 10.0, 0.0, 0.0, Evaluation(10.0, pixels=True)),
        (25.0, 10.0, 0.0, 0.0, Evaluation(20.0, random=True, pixels=True)),
        (25.0, 10.0, 12.0, 0.0, Evaluation(22.0, published=True, pixels=True)),
        (25.0, 10.0, 12.0, 3.0, Evaluation(25.0, published=True, pixels=True)),
        (25.0, 10.0, 12.0, 3.5, Evaluation(23.5, random=True, pixels=True)),
        (25.0, 10.0, 12.0, 5.5, Evaluation(15.5, pixels=True)),
        (25.0, 10.0, 12.0, 16.0, Evaluation(22.0, published=True)),
        (25.0, 10.0, 16.0, 0.0, Evaluation(20.0, random=True, pixels=True)),
        (50.0, 10.0, 16.0, 2.0, Evaluation(38.0, published=True, random=True, pixels=True)),
        (0.0, 10.0, 16.0, 0.0, Evaluation(0.0)),
    ],
)
def test_an_evaluation_fits_its_limit(
    limit: float, alone: float, published: float, pixels: float, found: Evaluation
) -> None:
    """Raw pixels come first, then published weights, then random ones; without time, or labels, there is none."""
    assert plan_evaluation(limit, alone, published, pixels) == found


def test_joining_takes_time_that_is_left() -> None:
    """Only where published weights are compared; its seconds are the evaluation's, too."""
    compared = Evaluation(22.0, published=True)
    assert plan_joining(compared, 10.0, 10.0) == Evaluation(32.0, published=True, joined=True)
    assert plan_joining(compared, 10.0, 9.0) == compared
    assert plan_joining(Evaluation(20.0, random=True), 1.0, 10.0) == Evaluation(20.0, random=True)


def test_a_trial_fits_its_time() -> None:
    """Start, two looks, the steps and a checkpoint: 4 + 2 x 3 + 36 x 0.25 + 1 = 20 s, and less does not suffice."""
    costs = COSTS[1]
    assert plan_trial(20.0, costs, 1000) == 36
    assert plan_trial(20.0, costs, 30) == 15
    assert plan_trial(20.0, costs, 18) == 0
    assert plan_trial(13.4, costs, 1000) == 0
    assert plan_trial(13.5, costs, 1000) == module.LEAST_TRIED
