"""The paragraph on a study follows its numbers."""

import pytest

from moco.study.definition import Arm, Claim, Study
from moco.study.rows import list_rows
from moco.study.statistics import agreement, judge_claims
from moco.study.verdict import write_verdict
from tests.slow import slow
from tests.study.test_statistics import KNN, row


def test_the_paragraph_follows_the_numbers() -> None:
    """Best and worst, random weights, order, claims; nothing where there is nothing."""
    arms = (Arm("a", paper=1.0), Arm("b", paper=2.0), Arm("c", paper=3.0))
    study = Study("s", "Three arms", arms, claims=(Claim("More is better.", "c", "a"),))
    figures = {"a": (10.0, 11.0), "b": (20.0, 21.0), "c": (30.0, 31.0)}
    results = [
        {"arm": name, "seed": seed, "state": "done", "figures": {KNN.name: value}}
        for name, own in figures.items()
        for seed, value in enumerate(own)
    ]
    some = list_rows(study, arms, results)
    text = write_verdict(study, some, agreement(some), judge_claims(study, some), 15.0)
    assert "over 2 seeds c did best, 30.50 ± 0.71, clearly ahead of b" in text
    assert "Not above random weights (15.00%): a." in text
    assert "mostly agrees with the paper's (Kendall's tau 1.00" in text
    assert "More is better. Here that holds (c minus a: +20.00" in text
    assert "No cell is finished yet" in write_verdict(study, list_rows(study, arms, []), None, [], None)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        slow([1, 2, 3, 4], "mostly agrees with the paper's"),
        ([3, 1, 2, 4], "rather agrees with the paper's (Kendall's tau 0.33"),
        ([4, 3, 2, 1], "rather reverses the paper's"),
    ],
)
def test_a_weak_agreement_is_not_called_a_strong_one(order: list[float], said: str) -> None:
    """However sure it is: two of three pairs as in the paper are little."""
    some = [row(str(place), [10.0 * here, 10.0 * here + 0.1], float(place)) for place, here in enumerate(order)]
    study = Study("s", "s", tuple(one.arm for one in some))
    assert said in write_verdict(study, some, agreement(some), [], None)
