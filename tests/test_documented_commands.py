"""Every command in a block of the README or of docs/ is one that the command line reads."""

import re
import shlex
from pathlib import Path

import pytest

from moco import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```|((?:^    .+\n)+)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(rf"(?:^|\s)moco ((?:{'|'.join(cli.COMMANDS)})\s.*)")


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `moco` in the page's blocks; a line that ends in a backslash goes on."""
    blocks = [match[1] or match[2] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (COMMAND.search(line.partition("  #")[0].partition(" > ")[0]) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match and '"$@"' not in match[1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_s_commands_are_read(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag, recipe or task is misspelled or gone; nothing is run."""
    monkeypatch.setattr(cli, "_runner", lambda command: dict)
    for arguments in commands(page):
        cli.parse(arguments)


def test_the_search_finds_commands() -> None:
    """Of the pages that a new user reads first; else the test above would be empty."""
    assert len(commands(PAGES[0])) >= 4
    assert sum(len(commands(page)) for page in PAGES) > 80
