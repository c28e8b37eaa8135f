"""Writes docs/reference/: commands and flags from the fields of their configs, and the public names of Python."""

import dataclasses
import html
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro

import moco
from moco.cli import COMMANDS, GROUPS
from moco.pretraining.config import AutoConfig, PretrainConfig
from moco.pretraining.recipes import RECIPES
from moco.runtime.helptext import Flag, list_flags
from moco.transfer.config import CompareConfig, TransferConfig
from moco.transfer.recipes import TASKS, transfer_config

BESIDE = {"pretrain": ("pretrain auto", AutoConfig), "transfer": ("transfer compare", CompareConfig)}
"""A command -> another one in it, with flags of its own."""


def main(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("commands", write_commands()), ("python", write_python())):
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_commands() -> Iterator[str]:
    """Yield the lines of the page of commands."""
    yield "# Commands and flags\n"
    yield "This page is made from the code. `moco COMMAND --help` says the same in a terminal."
    yield 'Every command is a function too: `moco.run("knn", weights="runs/a", data="photos")`.\n'
    for name, kind in COMMANDS.items():
        yield from write_command(name, kind)
        if name in BESIDE:
            yield from write_command(*BESIDE[name])
    yield "\n"


def write_command(name: str, kind: type[Any]) -> Iterator[str]:
    """Yield a command's section: what it does, its recipes or tasks, and its flags in groups."""
    yield f"## moco {name}\n"
    yield f"{escape(' '.join((kind.__doc__ or '').split()))}\n"
    if kind is PretrainConfig:
        yield "A recipe stands behind the command: `moco pretrain quick --data D --out RUN`.\n"
        yield from tabulate(("recipe", "what it is"), [(f"`{one}`", escape(r.about)) for one, r in RECIPES.items()])
        yield "The defaults below are those of `v1`.\n"
    if kind is TransferConfig:
        yield "A task stands behind the command: `moco transfer voc-c4 --weights W --data D --out RUN`.\n"
        yield from tabulate(("task", "what it is"), [(f"`{one}`", escape(task.about)) for one, task in TASKS.items()])
        yield f"The defaults below are those of `{next(iter(TASKS))}`.\n"
    flags, groups = list_flags(kind, start(kind)), GROUPS.get(kind, {})
    if not groups:
        yield from list_table(flags)
        return
    rest = list(groups)[1]
    for title, fields in groups.items():
        known = {field for names in groups.values() for field in names}
        own = [one for one in flags if one.field in fields or (title == rest and one.field not in known)]
        if own:
            yield f"### {title} {{: #{name}-{title.lower().replace(' ', '-')} }}\n"
            yield from list_table(own)


def start(kind: type[Any]) -> Any:
    """Make what the flags of a command begin with, as the command line does."""
    if kind is TransferConfig:
        return transfer_config(next(iter(TASKS)), weights=tyro.MISSING, data=tyro.MISSING, out=tyro.MISSING)
    return tyro.MISSING_NONPROP


def list_table(flags: list[Flag]) -> Iterator[str]:
    """Yield the table of some flags."""
    rows = [(f"`{one.written.replace('|', ' or ')}`", f"`{one.default}`" if one.default else "", escape(one.text))
            for one in flags]  # fmt: skip
    yield from tabulate(("flag", "default", "meaning"), rows)


def tabulate(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield a table in Markdown."""
    for row in (header, ("---",) * len(header), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def escape(text: str) -> str:
    """Make a text one cell of a table, in which nothing is markup."""
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    return html.escape(text, quote=False)


def write_python() -> Iterator[str]:
    """Yield the lines of the page of Python's names, whose docstrings mkdocstrings puts in."""
    yield "# Python\n"
    yield "`import moco` gives these names, and imports each when it is first used."
    yield "This page is made from the docstrings.\n"
    objects = {name: getattr(moco, name) for name in moco.__all__}
    kinds = {
        "Functions": [name for name, one in objects.items() if callable(one) and not isinstance(one, type)],
        "Classes": [
            name for name, one in objects.items() if isinstance(one, type) and not issubclass(one, Exception)
            and not (dataclasses.is_dataclass(one) and name.endswith("Config"))
        ],
        "Settings of commands": [name for name in objects if name.endswith("Config")],
        "Errors": [name for name, one in objects.items() if isinstance(one, type) and issubclass(one, Exception)],
    }  # fmt: skip
    for title, names in kinds.items():
        yield f"## {title}\n"
        for name in names:
            yield f"::: {home(name)}.{name}\n"
            if name.endswith("Config"):
                yield "    options:\n      members: false\n"
    yield ""


def home(name: str) -> str:
    """Find the module that a public name lies in."""
    found: str = next(module for module, names in moco._HOMES.items() if name in names)
    import_module(found)
    return found


def find_unlisted(root: Path) -> list[str]:
    """Find the pages of docs/ that the site does not list."""
    listed = set(re.findall(r"[\w/-]+\.md", (root / "mkdocs.yml").read_text(encoding="utf-8")))
    return sorted({page.name for page in (root / "docs").glob("*.md")} - listed)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    if find_unlisted(root):
        raise SystemExit(
            f"mkdocs.yml lists no {', '.join(find_unlisted(root))} under nav: add it where a user looks for it"
        )
    main(root / "docs" / "reference")
