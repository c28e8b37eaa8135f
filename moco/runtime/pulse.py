"""Each process tells the others that it is alive, so that when one stalls the others can name it."""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from moco.errors import DivergedError, StalledError

SECONDS = 1.0
"""Between two beats."""
MEETING, ASKING = 30.0, 5.0
"""Seconds to reach the store: where processes meet, and where one asks who is silent and its holder may have left."""
_stopped = threading.Event()
_beating: threading.Thread | None = None


def start_pulse(rank: int) -> None:
    """Start to beat, and say where this process is."""
    global _beating
    _stopped.clear()
    store = _store(MEETING)
    store.set(f"moco/place/{rank}", f"process {os.getpid()} on {socket.gethostname()}")
    _beating = threading.Thread(target=_beat, args=(store, rank), daemon=True, name="pulse")
    _beating.start()


def stop_pulse() -> None:
    """Stop beating."""
    global _beating
    _stopped.set()
    if _beating is not None:
        _beating.join()
        _beating = None


@contextmanager
def watch_collectives(rank: int, ranks: int) -> Iterator[None]:
    """Raise StalledError, which names the processes without a pulse, where a collective fails inside."""
    try:
        yield
    except (StalledError, DivergedError):  # reported already, and may name a folder with one of the words below
        raise
    except RuntimeError as error:
        if ranks == 1 or isinstance(error, torch.OutOfMemoryError) or not _is_of_a_collective(error):
            raise
        silent = _silent(rank, ranks)
        who = ", ".join(silent) if silent else "none: is one much slower, or the network down?"
        raise StalledError(
            f"process {rank} of {ranks} got no answer from the others; no heartbeat from {who} ({_first_line(error)}). "
            f"The last checkpoint is valid: start all processes again to continue"
        ) from error


def _is_of_a_collective(error: RuntimeError) -> bool:
    names = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "timeout", "socket")
    return isinstance(error, dist.DistError) or any(name in str(error).lower() for name in names)


def _first_line(error: RuntimeError) -> str:
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^\[[^]]*\] *", "", line).split(". ")[0][:200]  # without the line of gloo's source, and its advice


def _beat(store: Any, rank: int) -> None:
    while not _stopped.wait(SECONDS):
        try:
            store.add(f"moco/pulse/{rank}", 1)
        except RuntimeError:  # the store is gone: so are we, soon
            return


def _silent(own: int, ranks: int) -> list[str]:
    """The processes whose count stands still, and where they are."""
    try:
        store = _store(ASKING)
        before = [store.add(f"moco/pulse/{rank}", 0) for rank in range(ranks)]
        time.sleep(3 * SECONDS)
        still = [rank for rank in range(ranks) if rank != own and store.add(f"moco/pulse/{rank}", 0) == before[rank]]
        return [f"{rank} ({store.get(f'moco/place/{rank}').decode()})" for rank in still]
    except RuntimeError as error:
        return [f"the one that holds the store ({_first_line(error)})"]


def _store(seconds: float) -> Any:
    """A connection of its own to the store where the processes met."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=seconds))  # type: ignore[attr-defined]
