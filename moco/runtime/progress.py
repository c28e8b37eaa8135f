"""How far a long work has got: a bar on a terminal, a line now and then in a log; of the first process only."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from moco.runtime import distributed

Item = TypeVar("Item")
FIRST_LINE, LINE_EVERY = 5.0, 60.0
"""Seconds before the first line of a log, and between two lines."""


def columns() -> tuple[ProgressColumn, ...]:
    """Build the columns of every progress bar: what is done, how far, and the time that is left."""
    return TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def show_progress(
    items: Iterable[Item], title: str | None, total: int, console: Console | None = None
) -> Iterator[Item]:
    """Yield the items and report `title` and how many are done on standard error; nothing without a title."""
    console = console or Console(stderr=True)
    if title is None or distributed.rank() != 0:
        yield from items
    elif not console.is_terminal:
        yield from _in_lines(items, title, total, console)
    else:
        with Progress(*columns(), console=console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            for item in items:
                yield item
                progress.advance(task)


@contextmanager
def name_phase(title: str, console: Console | None = None) -> Iterator[None]:
    """Print `title` on standard error where what follows takes more than five seconds, and again every minute."""
    console, ended, start = console or Console(stderr=True), threading.Event(), time.monotonic()

    def report() -> None:
        wait = FIRST_LINE
        while not ended.wait(wait):
            spent = timedelta(seconds=round(time.monotonic() - start))
            console.print(f"{title}: {spent} so far", markup=False, highlight=False, soft_wrap=True)
            wait = LINE_EVERY

    thread = threading.Thread(target=report, daemon=True)
    if distributed.rank() == 0:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def _in_lines(items: Iterable[Item], title: str, total: int, console: Console) -> Iterator[Item]:
    """The items; what takes only seconds stays without a line."""
    start = time.monotonic()
    next_line = start + FIRST_LINE
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now >= next_line:
            left = timedelta(seconds=round((now - start) / done * (total - done)))
            console.print(f"{title}: {done}/{total}, {left} left", markup=False, highlight=False, soft_wrap=True)
            next_line = now + LINE_EVERY
        yield item
