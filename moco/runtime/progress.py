"""How far a long work has got: a bar on a terminal, a line now and then in a log; of the first process only."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)  # fmt: skip

from moco.runtime import distributed
from moco.runtime.phases import PATIENCE, say_if_slow

Item = TypeVar("Item")
LINE_EVERY = 60.0
"""Seconds between two lines of a log."""


def columns(far: ProgressColumn | None = None) -> tuple[ProgressColumn, ...]:
    """Build the columns of every progress bar: what is done, how far (by default in steps), and the time left."""
    text = TextColumn("{task.description}", markup=False)
    return text, BarColumn(), far or MofNCompleteColumn(), TimeRemainingColumn()


def show_progress(
    items: Iterable[Item], title: str | None, total: int, console: Console | None = None
) -> Iterator[Item]:
    """Yield the items and report `title` and what share is done on standard error; nothing without a title.

    A share, since items are often batches, of which a person knows nothing.
    """
    console = console or Console(stderr=True)
    if title is None or distributed.rank() != 0:
        yield from items
    elif not console.is_terminal:
        yield from _in_lines(items, title, total, console)
    else:
        with Progress(*columns(TaskProgressColumn()), console=console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            for item in items:
                yield item
                progress.advance(task)


def _in_lines(items: Iterable[Item], title: str, total: int, console: Console) -> Iterator[Item]:
    """The items; what takes only seconds stays without a line, and a slow first item has one of its own."""
    start = time.monotonic()
    next_line = start + PATIENCE
    with contextlib.ExitStack() as first:
        first.enter_context(say_if_slow(title))
        for done, item in enumerate(items):
            now = time.monotonic()
            if done == 1:
                first.close()
            if done and now >= next_line:
                left = timedelta(seconds=round((now - start) / done * max(0, total - done)))
                console.print(
                    f"{title}: {done / max(1, total):.0%}, {left} left", markup=False, highlight=False, soft_wrap=True
                )
                next_line = now + LINE_EVERY
            yield item
