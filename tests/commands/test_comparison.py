"""What some weights found stands first, by the name that people use, and random weights beside it."""

import pytest

from moco.commands.comparison import called, compare_figures, say_each

LITE = "timm:tf_efficientnet_lite0@files/lite0.safetensors"


def test_lines_name_the_weights_and_what_they_are_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    """A key such as `random` is explained, and a file is no part of a name."""
    say_each({LITE: "3 groups", "random": "2 groups"})
    assert capsys.readouterr().out.splitlines() == [
        "timm:tf_efficientnet_lite0: 3 groups", "for comparison, random weights: 2 groups",
    ]  # fmt: skip
    assert (called("runs/a"), called("random choice")) == ("runs/a", "random choice")


def test_a_table_has_the_same_names() -> None:
    """One row each."""
    page = compare_figures({LITE: {"groups": 3}, "random": {"groups": 2}}, {"groups": "groups"})
    assert "random weights" in page
    assert "lite0.safetensors" not in page
