"""A study's table."""

from typing import Any

from moco.study.definition import Arm, Study
from moco.study.rows import list_rows
from tests.study.test_statistics import KNN


def result(arm: str, seed: int, value: float | None, state: str = "done") -> dict[str, Any]:
    """What is kept of a cell."""
    return {"arm": arm, "seed": seed, "state": state, "figures": {} if value is None else {KNN.name: value}}


def test_values_keep_their_seeds() -> None:
    """A diverged cell is counted, and its seed is none of a value."""
    study = Study("s", "s", (Arm("a"), Arm("b")))
    kept = [result("a", 0, 1.0), result("b", 0, None, "diverged"), result("b", 1, 2.0), result("a", 2, 3.0)]
    first, second = list_rows(study, study.arms, kept)
    assert (first.values, first.seeds, first.diverged) == ((1.0, 3.0), (0, 2), 0)
    assert (second.values, second.seeds, second.diverged) == ((2.0,), (1,), 1)
    assert first.mean == 2
