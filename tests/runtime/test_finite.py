"""A step that is no longer finite is found at once on a processor, and a step late, but before a save, on a GPU."""

import math

import pytest
import torch

from moco.runtime.finite import FiniteCheck

NUMBER, NAN, INFINITY = (torch.tensor(value) for value in (1.0, math.nan, math.inf))


@pytest.mark.parametrize(("loss", "norm"), [(NAN, NUMBER), (NUMBER, NAN), (NUMBER, INFINITY), (INFINITY, NUMBER)])
def test_at_once(loss: torch.Tensor, norm: torch.Tensor) -> None:
    """On a processor, whatever is not a number."""
    check = FiniteCheck("cpu", math.inf)
    check.note(0, [NUMBER, NUMBER], NUMBER)
    assert not check.failed(now=False)
    check.note(1, [NUMBER, loss], norm)
    assert check.failed(now=False)
    assert check.failure.step == 1


def test_a_step_late() -> None:
    """The answer for a step comes with the next one, and names the step that failed."""
    check = FiniteCheck("cpu", math.inf, late=True)
    answers = []
    for step, loss in enumerate([NUMBER, NAN, NUMBER]):
        check.note(step, [loss], NUMBER)
        answers.append(check.failed(now=False))
    assert answers == [False, False, True]
    assert check.failure.step == 1


def test_now() -> None:
    """Before something is saved the last step is asked too."""
    check = FiniteCheck("cpu", math.inf, late=True)
    check.note(0, [NUMBER], NUMBER)
    check.note(1, [NAN], NUMBER)
    assert check.failed(now=True)
    assert check.failure.step == 1
