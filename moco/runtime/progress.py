"""A progress bar on standard error, on a terminal and on the first process only."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moco.runtime import distributed

Item = TypeVar("Item")


def shown(items: Iterable[Item], title: str | None, total: int, console: Console | None = None) -> Iterator[Item]:
    """The items, with a bar that says `title` while they are worked through; without a title there is none."""
    console = console or Console(stderr=True)
    if title is None or distributed.rank() != 0 or not console.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        for item in items:
            yield item
            progress.advance(task)
