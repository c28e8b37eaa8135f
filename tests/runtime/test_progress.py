"""A bar is for people at a terminal; whatever is shown, the items are the same."""

import contextlib
import io
import itertools
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from moco.runtime.progress import show_progress


def consoles() -> tuple[io.StringIO, Console, Console]:
    """A file, and consoles that write to it: a terminal and none."""
    file = io.StringIO()
    return file, Console(file=file, force_terminal=True, width=100), Console(file=file, force_terminal=False)


def test_on_a_terminal_the_title_is_seen() -> None:
    """With the share that is done; brackets are no markup."""
    file, terminal, _ = consoles()
    assert list(show_progress(iter("abc"), "encoding [3] images", 3, terminal)) == ["a", "b", "c"]
    assert "encoding [3] images" in file.getvalue()
    assert "100%" in file.getvalue()


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first after five seconds, the next after a minute: the share that is done, and the time that is left."""
    clock = itertools.chain([100.0], itertools.count(100.0, 20.0))  # at the start, and before each item, of 20 seconds
    monkeypatch.setattr("moco.runtime.progress.say_if_slow", lambda title: contextlib.nullcontext())
    monkeypatch.setattr("moco.runtime.progress.time.monotonic", lambda: next(clock))
    file, _, plain = consoles()
    assert list(show_progress(range(9), "encoding [9] images", 9, plain)) == list(range(9))
    left = ["11%, 0:02:40 left", "44%, 0:01:40 left", "78%, 0:00:40 left"]
    assert file.getvalue().splitlines() == [f"encoding [9] images: {one}" for one in left]


def test_elsewhere_nothing_is_written() -> None:
    """Neither into a file where it takes no five seconds, nor without a title."""
    file, terminal, plain = consoles()
    assert list(show_progress(range(3), "encoding", 3, plain)) == [0, 1, 2]
    assert list(show_progress(range(3), None, 3, terminal)) == [0, 1, 2]
    assert file.getvalue() == ""


def test_a_slow_first_item_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """While it lasts: nothing is done yet, so there is no time left to tell."""
    monkeypatch.setattr("moco.runtime.phases.PATIENCE", 0.001)
    said, end = "", time.monotonic() + 30

    def items() -> Iterator[int]:
        nonlocal said
        while not said and time.monotonic() < end:
            time.sleep(0.005)
            said += capsys.readouterr().err
        yield 0

    assert list(show_progress(items(), "encoding [9] images", 1, consoles()[2])) == [0]
    assert said == "encoding [9] images ...\n"
