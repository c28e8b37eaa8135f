"""What a study says that it can tell."""

import dataclasses
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Outcome, Study
from moco.study.pairs import resolved_difference, seeds_to_resolve
from moco.study.power import describe_power, settle_seeds
from tests.study.test_statistics import row

STUDY = Study("s", "s", (Arm("a"), Arm("b"), Arm("c")))
CONFIG = StudyConfig("s", "digits", Path("S"), seeds=3)


def test_the_deviation_is_assumed_until_it_is_measured() -> None:
    """Then it is what arms and seeds leave of the finished cells."""
    said = describe_power(STUDY, CONFIG, [], 3, {"tested": 400})
    assert f"difference of {resolved_difference(1.0, 3, 3):.2f} points" in said
    assert "an assumption: no two seeds are finished" in said
    assert "400 test images alone moves a difference by up to 4.38 points" in said
    each = dataclasses.replace(CONFIG, budgets=(128, 256))
    assert "points between two arms, at each budget, with probability 0.8" in describe_power(STUDY, each, [], 3, {})
    known = [row("a", [10.0, 12.0]), row("b", [20.0, 21.0]), row("c", [30.0, 33.0])]
    assert "a cell deviates by 0.71 points, measured on the cells that are finished, 2" in describe_power(
        STUDY, CONFIG, known, 3, {}
    )


def test_resolve_chooses_the_seeds() -> None:
    """And names the test images that other images of the kind would need."""
    config = dataclasses.replace(CONFIG, resolve=1.5)
    settled = settle_seeds(STUDY, config, [], 3)
    assert settled.seeds == seeds_to_resolve(1.5, 1.0, 3, 100)
    assert "To find 1.5 points on other images of this kind, the study needs 3415 test images" in describe_power(
        STUDY, settled, [], 3, {"tested": 400}
    )
    assert settle_seeds(STUDY, CONFIG, [], 3) is CONFIG
    with pytest.raises(BadInputError, match="more than 100 seeds are needed"):
        settle_seeds(STUDY, dataclasses.replace(CONFIG, resolve=0.01), [], 3)
    memory = dataclasses.replace(STUDY, outcomes=(Outcome("peak memory (MiB)", "run.peak_memory_mib"),))
    with pytest.raises(BadInputError, match="no percentage: give --seeds"):
        settle_seeds(memory, config, [], 3)
    assert not describe_power(memory, CONFIG, [], 3, {})


def test_one_seed_tells_nothing() -> None:
    """And the plan says so."""
    assert "One seed cannot show a difference" in describe_power(STUDY, dataclasses.replace(CONFIG, seeds=1), [], 3, {})
