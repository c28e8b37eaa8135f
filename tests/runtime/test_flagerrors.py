"""Mistakes in flags in plain words, of what tyro really says of them."""

import pytest

from moco.cli import parse
from moco.errors import BadInputError
from moco.runtime.flagerrors import explain_mistake

QUICK = "pretrain quick --data d --out o"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("knn --weights w", "moco knn needs --data"),
        ("pretrain auto --minutes 5 --init-weights w", "moco pretrain auto needs --data and --out"),
        ("study --data d --out o", "moco study needs STUDY"),
        ("knn --weights", "--weights needs a value"),
        ("transfer voc-dc5 --weights w --data d --out o --train-sizes 96", "--train-sizes needs 2 values"),
        ("transfer voc-dc5 --weights w --data d --out o --train-sizes 96 b", "--train-sizes cannot be 96 b"),
        (f"{QUICK} --seed 1.5", "--seed is 1.5: expected a whole number"),
        (f"{QUICK} --image-size big", "--image-size is big: expected a whole number"),
        (f"{QUICK} --temperature low", "--temperature is low: expected a number"),
        (f"{QUICK} --lr low", "--lr is low: expected a number"),
        (f"{QUICK} --std a b c", "--std is a b c: expected numbers"),
        (f"{QUICK} --dictionary list", "--dictionary is list: expected one of queue, memory-bank, in-batch"),
        (f"{QUICK} --batch-sise 9", "--batch-sise is not a flag of moco pretrain quick: did you mean --batch-size?"),
        (f"{QUICK} more", "more is not expected here"),
    ],
)  # fmt: skip
def test_what_was_given_and_what_was_expected(line: str, said: str) -> None:
    """Without a word of Python's or tyro's."""
    command = " ".join(word for word in line.split()[:2] if word not in ("--weights", "--data"))
    with pytest.raises(BadInputError) as caught:
        parse(line.split())
    assert str(caught.value).startswith(f"{said} (see moco {command}")


def test_what_is_not_known_stays_as_it_is() -> None:
    """Better tyro's words than none."""
    assert explain_mistake("Something new; of tyro", "moco knn") == "Something new; of tyro"
