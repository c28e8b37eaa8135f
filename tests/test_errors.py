"""How messages are written."""

import pytest

from moco.errors import counted, spell_images


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [
        (1, "step", "1 step"),
        (0, "step", "0 steps"),
        ("1,000", "step", "1,000 steps"),
        (1, "loading process", "1 loading process"),
        (2, "loading process", "2 loading processes"),
        ("1.0", "pass", "1.0 passes"),
        (3, "batch", "3 batches"),
    ],
)
def test_one_of_a_thing_is_singular(number: object, thing: str, said: str) -> None:
    """Everything else is plural, also as it is written for people."""
    assert counted(number, thing) == said


def test_people_read_of_training_images() -> None:
    """Results on disk keep their words."""
    assert spell_images("a tenth of train, held out") == "a tenth of the training images, held out"
    assert spell_images("the test split") == "the test split"
