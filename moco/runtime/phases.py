"""Says what is being done where that takes long enough for a person to wonder. Imports no torch: it covers that too."""

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

PATIENCE = 5.0
"""Seconds that may pass in silence."""
AGAIN = 60.0
"""Seconds after which the same line is repeated."""


@contextmanager
def say_if_slow(doing: str, after: float | None = None, again: float = AGAIN) -> Iterator[None]:
    """Say on standard error what is being done where it takes longer than `after` seconds (PATIENCE), on rank 0 only.

    While it lasts, that is said `again` with the time that has passed. Standard error is that of the beginning: what is
    inside may redirect it.
    """
    stream, ended, started = sys.stderr, threading.Event(), time.monotonic()
    patience = PATIENCE if after is None else after

    def watch() -> None:
        for number in itertools.count():
            if ended.wait(again if number else patience):
                return
            passed = f" ({timedelta(seconds=round(time.monotonic() - started))})" if number else ""
            print(f"{doing} ...{passed}", file=stream, flush=True)

    thread = threading.Thread(target=watch, daemon=True)
    if os.environ.get("RANK", "0") == "0":
        thread.start()
    try:
        yield
    finally:
        ended.set()
