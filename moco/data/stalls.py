"""Names the file that a read has waited for too long, for example on a network server that is gone."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moco.errors import one_line

SAY_AFTER = 60.0
"""Seconds of reading one file before the user is told."""
GIVE_UP_AFTER = 600.0
"""Seconds of reading one file after which a process that loads images gives up: servers that fail over take minutes."""

GiveUp = Callable[[str], None]


class _Read(NamedTuple):
    """A file that is being read, and since when."""

    path: str | Path
    since: float


class _Watch:
    """Looks now and then at the files that the threads of this process read."""

    def __init__(self) -> None:
        self.reads = dict[int, _Read]()
        self.process: int | None = None
        self.give_up: GiveUp | None = None

    def begin(self) -> None:
        """Start to look, once in each process; a fork has no thread of its parent's."""
        if self.process != os.getpid():
            self.process, self.reads = os.getpid(), {}
            threading.Thread(target=self._look, daemon=True, name="stalls").start()

    def _look(self) -> None:
        told: set[_Read] = set()
        while True:
            time.sleep(SAY_AFTER / 4)
            copied, now = list(self.reads.values()), time.monotonic()  # at once, for other threads write meanwhile
            reads = set(copied)
            told &= reads
            for read in reads:
                seconds = now - read.since
                said = f"{one_line(read.path)}: has been read for {seconds:.0f} s: does its file system answer?"
                if seconds >= GIVE_UP_AFTER and self.give_up is not None:
                    self.give_up(said)
                elif seconds >= SAY_AFTER and read not in told:
                    told.add(read)
                    print(f"moco: warning: {said}", file=sys.stderr, flush=True)


_watch = _Watch()


@contextmanager
def watch_read(path: str | Path) -> Iterator[None]:
    """Say which file is read where this lasts for more than a minute."""
    _watch.begin()
    thread = threading.get_ident()
    _watch.reads[thread] = _Read(path, time.monotonic())
    try:
        yield
    finally:
        _watch.reads.pop(thread, None)


def give_up_by(give_up: GiveUp) -> None:
    """Let this process call `give_up`, with what to say, where a file is read for `GIVE_UP_AFTER` seconds."""
    _watch.give_up = give_up
