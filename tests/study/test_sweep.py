"""A user's question as a study, and successive halving."""

from pathlib import Path
from typing import Any

import pytest

from moco.errors import BadInputError
from moco.study.config import StudyConfig
from moco.study.definition import Arm
from moco.study.rows import Row
from moco.study.sweep import best_arms, plan_rounds, settle_study
from tests.study.test_statistics import KNN, row


def sweep(**values: Any) -> StudyConfig:
    """The config of a sweep."""
    return StudyConfig("sweep", "digits", Path("S"), **values)


def test_flags_with_values_are_a_grid() -> None:
    """Every combination is an arm, of the types that pretrain needs; the first flag is the x axis."""
    study = settle_study(sweep(flag=("lr", "--mask-own-keys"), values=(("0.03", "1"), ("true", "false"))))
    assert [arm.values for arm in study.arms] == [
        {"lr": 0.03, "mask_own_keys": True}, {"lr": 0.03, "mask_own_keys": False},
        {"lr": 1, "mask_own_keys": True}, {"lr": 1, "mask_own_keys": False},
    ]  # fmt: skip
    assert study.axis == "log"
    words = settle_study(sweep(flag=("augment",), values=(("v1", "v2"),)))
    assert [arm.name for arm in words.arms] == ["augment=v1", "augment=v2"]


@pytest.mark.parametrize(("values", "said"), [
    ({}, "0 --flag and 0 --values, expected one --values behind each --flag"),
    ({"flag": ("lr",)}, "1 --flag and 0 --values"),
    ({"flag": ("lr", "lr"), "values": (("1",), ("2",))}, "--flag lr comes twice"),
    ({"flag": ("nonsense",), "values": (("1",),)}, "gives --nonsense, which is not a flag of moco pretrain"),
    ({"flag": ("seed",), "values": (("1",),)}, "gives --seed, which the study sets itself"),
    ({"flag": ("lr",), "values": (("high",),)}, "--lr"),
    ({"flag": ("lr",), "values": (("-1",),)}, "--lr is -1"),
])  # fmt: skip
def test_what_is_no_sweep(values: dict[str, Any], said: str) -> None:
    """One line says what is wrong."""
    with pytest.raises(BadInputError, match=said):
        settle_study(sweep(**values))


def test_flags_belong_to_sweep() -> None:
    """Another study has its own arms."""
    with pytest.raises(BadInputError, match="belong to moco study sweep, not to momentum"):
        settle_study(StudyConfig("momentum", "digits", Path("S"), halving=True))


@pytest.mark.parametrize(("arms", "expected"), [
    (1, [(1, 1)]), (2, [(2, 1)]), (3, [(3, 0.5), (2, 1)]), (8, [(8, 0.25), (4, 0.5), (2, 1)]), (9, [
        (9, 0.125), (5, 0.25), (3, 0.5), (2, 1)]),
])  # fmt: skip
def test_rounds(arms: int, expected: list[tuple[int, float]]) -> None:
    """Half of the arms, rounded up, with twice the images; the last round has all of them."""
    assert [(each.arms, each.share) for each in plan_rounds(arms)] == expected


def test_the_best_arms_in_the_order_of_the_study() -> None:
    """By mean; one that diverged is dropped first."""
    some = [row("a", [1.0, 2.0]), row("b", [9.0]), Row("c", Arm("c"), KNN, (), 2), row("d", [5.0])]
    assert [arm.name for arm in best_arms(some, [r.arm for r in some], 2)] == ["b", "d"]
    assert [arm.name for arm in best_arms(some, [r.arm for r in some], 3)] == ["a", "b", "d"]
