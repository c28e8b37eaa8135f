"""Help and mistakes as people read them: made of the boxes that tyro prints, whose lines are 1000 characters wide."""

import io
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from typing import Any

import tyro

from moco.errors import counted

WIDE = "1000"
"""The width, in $COLUMNS, at which tyro breaks no line by itself."""
HELP_INDENT = 8
RULERS = re.compile("─{2,}|-{3,}")
"""Matches the rules in tyro's boxes, drawn in ASCII where the terminal knows no others."""
PYTHON_TYPES = re.compile(r"\.? Got errors: .*?$| into tuple type .*?$")
"""Matches types as Python writes them, behind those that --help shows."""
SEVERAL = re.compile(r"[{\[]*\b(\w+(?: \w+)*) \[\1 \.\.\.[\]}]+")
"""Matches several values as tyro writes them, `[PATH [PATH ...]]`; a person writes `PATH...`."""
REPEATS = ("For full helptext", "Argument helptext")
"""How sections of a box begin that say nothing of the mistake."""
MOST_WIDTH = 100
"""Characters of a line of help, at most: longer lines are hard to read."""
BESIDE = 22
"""Characters that a flag may have beside its text; the text of a longer one begins on the next line."""


@dataclass(frozen=True)
class Flag:
    """A flag or a positional argument: how it is written, what it means, and its default."""

    written: str
    text: str
    default: str = ""
    """Empty if there is none."""

    @property
    def field(self) -> str:
        """Return the name of its field; a positional argument has the name of its values."""
        return self.written.split()[0].removeprefix("--").replace("-", "_").rstrip(",")

    @property
    def meaning(self) -> str:
        """Return its text with its default."""
        return f"{self.text} (default: {self.default})" if self.default else self.text


def explain(
    kind: type[Any],
    prog: str,
    default: Any,
    groups: Mapping[str, Sequence[str]],
    *,
    everything: bool,
    about: str = "",
    needs: str | None = None,
    one_of: Sequence[str] = (),
) -> str:
    """Explain the flags of a config, with the values of `default`; `groups` and `everything` as for `render_help`.

    `about` says what the command does, by default as the config's docstring; the field `needs` has to be given although
    it has a default, and so has one of the fields `one_of`.
    """
    flags = [one if needs is None else _demand(one, needs) for one in list_flags(kind, default)]
    needed = " ".join(one.written for one in flags if "(required)" in one.text or not one.written.startswith("-"))
    choice = " | ".join(one.written for one in flags if one.field in one_of)
    needed += f" ({choice})" if choice else ""
    return render_help(
        f"{prog} {needed} [flags]".replace("  ", " "), " ".join((about or kind.__doc__ or "").split()), flags, groups,
        everything=everything,
    )  # fmt: skip


def _demand(one: Flag, needs: str) -> Flag:
    """Mark the field `needs` as required; what it sets has no default then."""
    if one.field == needs:
        return replace(one, text=f"{one.text} (required)")
    return replace(one, default="") if f"--{needs.replace('_', '-')} sets it" in one.text else one


def list_flags(kind: type[Any], default: Any) -> list[Flag]:
    """List the flags of a config with their texts and the values of `default`."""
    box = io.StringIO()
    with redirect_stdout(box), set_environment(COLUMNS=WIDE), suppress(SystemExit):
        tyro.cli(kind, args=["--help"], prog="moco", default=default)
    return parse_flags(box.getvalue())


def parse_flags(box: str) -> list[Flag]:
    """Read the flags from the help that tyro prints at the width WIDE, without its own for help.

    A row begins with a frame, drawn in lines, in ASCII or left out, and a space.
    """
    rows = list[list[str]]()
    for line in box.splitlines():
        if line[:2] not in ("│ ", "| ", "  ") or not line.strip("│| "):
            continue
        content = line[2:].rstrip("│| " if line[0] != " " else " ")
        if content.startswith(" ") and rows:
            rows[-1].append(content.strip())
        elif not content.startswith(" "):
            rows.append(re.split(r"\s{2,}", content.strip(), maxsplit=1))
    return [_read_flag(row[0], " ".join(row[1:])) for row in rows if not row[0].startswith(("-h,", "-H,"))]


def _read_flag(written: str, text: str) -> Flag:
    found = re.fullmatch(r"(.*?)\s*\(default: (.*)\)", text)
    text, default = (found[1], found[2]) if found else (text, "")
    written = SEVERAL.sub(r"\1...", written.replace("{None}|", "").replace("{None,", "{"))
    return Flag(written, text, "" if default == "None" else default)


def render_help(
    usage: str, about: str, flags: Sequence[Flag], groups: Mapping[str, Sequence[str]], *, everything: bool
) -> str:
    """Render help: the first of `groups` (title -> fields), and with `everything` the others; all where there is none.

    A flag stands in the first group that names it; those that no group names stand in the second one.
    """
    if not groups:
        return "\n".join([*_head(usage, about), *_list(flags)])
    first, rest, *_ = groups
    shown = {title: list[Flag]() for title in groups}
    for one in flags:
        shown[next((title for title, fields in groups.items() if one.field in fields), rest)].append(one)
    lines = _head(usage, about)
    for title, own in shown.items():
        if own and (everything or title == first):
            lines += [f"{title}:", *_list(own), ""]
    hidden = sum(len(own) for own in shown.values()) - len(shown[first])
    if not everything and hidden:
        titles = ", ".join(title.lower() for title, own in shown.items() if own and title != first)
        lines += _wrap(f"{usage.split(' --')[0]} --help-all lists {counted(hidden, 'more flag')}: {titles}.", "")
    return "\n".join(lines).rstrip()


def flatten_error(box: str) -> str:
    """Flatten a boxed error to one line, without frame, rulers, help texts and Python types."""
    lines = [line.strip("│|") for line in box.splitlines() if not line.startswith(("╭", "╰", "+"))]
    shown = [line.strip() for line in lines if len(line) - len(line.lstrip()) < HELP_INDENT]
    said = [section.strip(" ─-") for section in RULERS.split(" ".join(shown)) if section.strip(" ─-")]
    return "; ".join(PYTHON_TYPES.sub("", text) for text in said if not text.startswith(REPEATS))


@contextmanager
def set_environment(**values: str) -> Iterator[None]:
    """Set variables of the environment, and put them back at the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _head(usage: str, about: str) -> list[str]:
    return [f"usage: {usage}", "", *_wrap(about, ""), ""]


def _list(flags: Iterable[Flag]) -> list[str]:
    lines = []
    for one in flags:
        text = _wrap(one.meaning, " " * (BESIDE + 4))
        if len(one.written) > BESIDE:
            lines += [f"  {one.written}", *text]
        else:
            lines += [f"  {one.written:<{BESIDE}}  {text[0].lstrip() if text else ''}".rstrip(), *text[1:]]
    return lines


def _wrap(text: str, indent: str) -> list[str]:
    width = max(60, min(MOST_WIDTH, shutil.get_terminal_size((MOST_WIDTH, 24)).columns))
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
