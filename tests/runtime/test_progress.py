"""A bar is for people at a terminal; whatever is shown, the items are the same."""

import io

from rich.console import Console

from moco.runtime.progress import shown


def consoles() -> tuple[io.StringIO, Console, Console]:
    """A file, and consoles that write to it: a terminal and none."""
    file = io.StringIO()
    return file, Console(file=file, force_terminal=True, width=100), Console(file=file, force_terminal=False)


def test_on_a_terminal_the_title_is_seen() -> None:
    """With how many of how many; brackets are no markup."""
    file, terminal, _ = consoles()
    assert list(shown(iter("abc"), "encoding [3] images", 3, terminal)) == ["a", "b", "c"]
    assert "encoding [3] images" in file.getvalue()
    assert "3/3" in file.getvalue()


def test_elsewhere_nothing_is_written() -> None:
    """Neither into a file, nor without a title."""
    file, terminal, plain = consoles()
    assert list(shown(range(3), "encoding", 3, plain)) == [0, 1, 2]
    assert list(shown(range(3), None, 3, terminal)) == [0, 1, 2]
    assert file.getvalue() == ""
