"""Help is read from what tyro prints, whole, and laid out in groups; a mistake becomes one line."""

from dataclasses import dataclass
from typing import Literal

import pytest
import tyro

from moco.runtime.helptext import Flag, explain, list_flags, parse_flags, render_help


@dataclass(frozen=True)
class Config:
    """Sort images by colour."""

    data: str
    """Where the images lie,
    in one folder."""
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Runs to compare."""
    colour_that_comes_first: Literal["red", "blue"] | None = None
    """The first one (not the last)."""
    fast: bool = False
    """Hurry."""


def test_flags_are_read_as_they_are_declared() -> None:
    """Sentences that a docstring breaks are whole again; a default of None is none; several values have no brackets."""
    assert list_flags(Config, Config(data=tyro.MISSING)) == [
        Flag("STR...", "Runs to compare."),
        Flag("--data STR", "Where the images lie, in one folder. (required)"),
        Flag("--colour-that-comes-first {red,blue}", "The first one (not the last)."),
        Flag("--fast, --no-fast", "Hurry.", "False"),
    ]


def test_an_ascii_box_is_read_too() -> None:
    """Terminals without line drawing have other frames."""
    rows = ["| -h, --help   show  |", "| --k INT      Keys.  |", "|              (default: 3) |"]
    box = "\n".join(["usage: x", "", "+- options ---+", *rows, "+-----+", ""])
    assert parse_flags(box) == [Flag("--k INT", "Keys.", "3")]


FLAGS = [Flag("--data STR", "Images."), Flag("--lr FLOAT", "Rate.", "0.1"), Flag("--tau FLOAT", "Divides.", "0.2")]
GROUPS = {"Common": ("data",), "Method": (), "Schedule": ("lr",)}


def test_groups_and_what_help_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help lists the common flags and says what else there is; all of it has every flag under its title."""
    monkeypatch.setenv("COLUMNS", "80")
    short = render_help("moco x --data STR [flags]", "Do it.", FLAGS, GROUPS, everything=False).splitlines()
    assert short == [
        "usage: moco x --data STR [flags]", "", "Do it.", "", "Common:", "  --data STR              Images.", "",
        "moco x --help-all lists 2 more flags: method, schedule.",
    ]  # fmt: skip
    whole = render_help("moco x", "Do it.", FLAGS, GROUPS, everything=True).splitlines()
    assert whole[4:] == [
        "Common:", "  --data STR              Images.", "", "Method:",
        "  --tau FLOAT             Divides. (default: 0.2)", "", "Schedule:",
        "  --lr FLOAT              Rate. (default: 0.1)",
    ]  # fmt: skip


def test_without_groups_everything_is_listed_and_lines_are_broken_between_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the terminal's width, and never beyond 100 characters."""
    monkeypatch.setenv("COLUMNS", "70")
    text = explain(Config, "moco sort", Config(data=tyro.MISSING), {}, everything=False)
    lines = text.splitlines()
    assert lines[0].startswith("usage: moco sort ")
    assert lines[2] == "Sort images by colour."
    assert max(map(len, lines)) <= 70
    for name in ("--data STR", "--colour-that-comes-first {red,blue}", "--fast, --no-fast"):
        assert name in text


def test_what_a_required_flag_sets_has_no_default() -> None:
    """A default that never holds would mislead; without the requirement it holds."""

    @dataclass(frozen=True)
    class Fitted:
        """Fit."""

        old_weights: str | None = None
        """Weights."""
        size: int = 7
        """Side. --old-weights sets it unless you give it."""

    def help_of(needs: str | None) -> str:
        return " ".join(explain(Fitted, "moco fit", Fitted(), {}, everything=True, needs=needs).split())

    assert "unless you give it. (default: 7)" in help_of(None)
    assert "default" not in help_of("old_weights")
    assert "Weights. (required)" in help_of("old_weights")
