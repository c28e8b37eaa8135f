"""Loads items ahead in other processes: how these start and end, and what the user reads if one is lost."""

import atexit
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from tempfile import gettempdir
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from moco.data.decoding import most_pixels, set_most_pixels
from moco.data.stalls import give_up_by
from moco.errors import BadInputError, one_line
from moco.runtime.mapped import explain_failed_reads
from moco.runtime.signals import StopRequest

Item = TypeVar("Item")
Made = TypeVar("Made")
PR_SET_PDEATHSIG = 1
"""Linux's number for: send me a signal when my parent is gone."""


def load_ahead(
    make: Callable[[Item], Made], items: Sequence[Item], workers: int, *, pinned: bool = False
) -> Iterator[Made]:
    """Yield what `make` gives for each item, in order, made ahead by `workers` processes (0: in this one).

    With `pinned` tensors come in memory from which a GPU reads by itself: what is made has `pin_memory`.
    Raises the BadInputError or OSError that `make` raises, wherever it did.
    """
    own = torch.Generator()  # the loader draws a seed for its processes: not from what models draw from
    with _loading_ended() as (begin, loading):
        loader = DataLoader(
            _ErrorsAsItems(make), batch_size=None, sampler=items, num_workers=workers, generator=own,
            worker_init_fn=begin, collate_fn=_keep_as_is, pin_memory=pinned,
        )  # fmt: skip
        others = set(multiprocessing.active_children())
        loading.made_ahead = iter(loader)
        loading.processes.extend(set(multiprocessing.active_children()) - others)
        for one in loading.made_ahead:
            if isinstance(one, BadInputError | OSError):
                raise one
            yield ForkingPickler.loads(one.content) if isinstance(one, _Packed) else one


@dataclass
class _Loading:
    """What has to end: torch's iterator and its processes."""

    made_ahead: Iterator[Any] = field(default_factory=lambda: iter(()))
    processes: list[BaseProcess] = field(default_factory=list)

    def close(self) -> None:
        """Let torch stop its threads and close its pipes, for which it has no public name."""
        getattr(self.made_ahead, "_shutdown_workers", lambda: None)()


@contextmanager
def _loading_ended() -> Iterator[tuple[Callable[[int], None], _Loading]]:
    """Give what loading processes begin with, and a place for what loads.

    On leaving the processes end, also those that wait for a file or were stopped, and torch closes its pipes. Neither
    is left to the garbage collector. It closes the pipes of a cycle (an error and the frames that it names) first; then
    torch's iterator writes to them and closes them again, when their numbers may be those of other files. `end` keeps
    the iterator out of every such cycle until then.
    """
    ended, held = multiprocessing.Pipe(duplex=False)
    loading = _Loading()

    def end() -> None:
        held.close()
        for process in loading.processes:
            if process.pid is not None and process.is_alive() and sys.platform != "win32":
                os.kill(process.pid, signal.SIGCONT)  # so that one that was stopped sees it

    atexit.register(end)  # before multiprocessing waits for its processes
    try:
        yield functools.partial(_begin_loading, ended, held, _last_words()[1], most_pixels()), loading
    finally:
        end()
        loading.close()
        atexit.unregister(end)
        ended.close()


@dataclass(frozen=True)
class _ErrorsAsItems(Dataset[Any]):
    """Returns an error in place of the item: torch would make it the traceback of a worker process."""

    make: Callable[[Any], Any]

    def __getitem__(self, item: Any) -> Any:
        try:
            made = self.make(item)
        except (BadInputError, OSError) as error:
            return error
        return made if get_worker_info() is None else _pack_made(made)


class _Packed(NamedTuple):
    """What a loading process made, ready for its pipe; tensors lie in shared memory."""

    content: bytes

    def pin_memory(self) -> Any:
        """Unpack, in the loader's own thread, into pinned memory."""
        return ForkingPickler.loads(self.content).pin_memory()


def _pack_made(made: Any) -> _Packed | ChildProcessError:
    """Pack what was made, or say why not: the thread of a queue would print a traceback, and the run wait for ever."""
    try:
        return _Packed(bytes(ForkingPickler.dumps(made)))
    except Exception as error:  # noqa: BLE001 - whatever it is, only an answer ends the wait
        return ChildProcessError(
            f"a loading process cannot pass on its images ({one_line(error)}): give more shared memory (docker "
            f"run --shm-size 2g), a shorter TMPDIR (now {gettempdir()}), or --workers 0"
        )


def _keep_as_is(one: Made) -> Made:
    """Change nothing: torch would make lists of tuples."""
    return one


@contextmanager
def watch_loading(
    after: str = "The last checkpoint is valid: run the same command to continue from it",
) -> Iterator[None]:
    """Raise ChildProcessError, in one clear line, where a loading process dies: torch says so amidst a step."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).strip().splitlines()[0].strip()
        do = "If the memory was full, give fewer --workers."
        while _last_words()[0].poll():
            words = _last_words()[0].recv()
            reason, do = words if words.endswith("?") else f"{words}.", ""
        said = " ".join(part for part in (reason, do, after) if part)
        raise ChildProcessError(f"a loading process was lost: {said}") from error


@functools.cache
def _last_words() -> tuple[Connection, Connection]:
    """Make the pipe through which a process that gives up says why."""
    return multiprocessing.Pipe(duplex=False)


def _begin_loading(ended: Connection, held: Connection, last_words: Connection, most: int, worker: int) -> None:
    """Let a loading process go on until the training ends, also where torchrun or a terminal signals all of a group.

    It ends at once where the other side of `ended` is closed, or its parent is killed, whatever it waits for.
    """
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # one that is stopped cannot see that its parent is gone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    held.close()
    set_most_pixels(most)  # a process that was not forked knows the default

    def give_up(why: str) -> None:
        last_words.send(why)
        os._exit(1)

    give_up_by(give_up)
    explain_failed_reads(give_up)  # torch has set a handler of its own, which names no file
    threading.Thread(target=_end_with_parent, args=[ended], daemon=True).start()


def _end_with_parent(ended: Connection) -> None:
    parent = multiprocessing.parent_process()
    wait([ended] if parent is None else [ended, parent.sentinel])
    os._exit(0)  # another code is a failure to torch
