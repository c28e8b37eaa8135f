"""The batches of a run: the order of the images, and the two views of each."""

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
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from tempfile import gettempdir
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from moco.data.augment import Augmentation
from moco.data.crops import Crops, make_crops
from moco.data.feed import Feed
from moco.data.images import Images
from moco.data.replacement import ChosenImages, Replaced
from moco.data.stalls import give_up_by
from moco.data.views import Look, can_compile, make_views
from moco.errors import BadInputError, one_line
from moco.runtime.randomness import Integers, Stream, permute
from moco.runtime.sharedmemory import require_shared_memory
from moco.runtime.signals import StopRequest

Item = TypeVar("Item")
Made = TypeVar("Made")
PR_SET_PDEATHSIG = 1
"""Linux's number for: send me a signal when my parent is gone."""


class Batch(NamedTuple):
    """Two views of each of N images."""

    x_q: Tensor
    """(N, 3, H, W)"""
    x_k: Tensor | None
    """(N, 3, H, W), or None where keys are no views."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(N,): the images that the views are of."""
    replaced: tuple[Replaced, ...] = ()
    """The images that could not be read; the index names those in their place."""

    def to(self, device: str) -> "Batch":
        """Move the tensors to the device."""
        x_k = None if self.x_k is None else self.x_k.to(device)
        return Batch(self.x_q.to(device), x_k, self.index.to(device), self.replaced)


@runtime_checkable
class Batches(Protocol):
    """The source of the loop's batches."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in one pass over the images."""

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of steps start..stop-1, in order."""


@dataclass(frozen=True)
class ViewBatches(Dataset[Batch]):
    """The batch of every step of a run, a pure function of (seed, step): `batches[step]`.

    An epoch passes over the images in a random order and leaves out what does not fill a batch. With several ranks,
    `batch_size` is the total, and rank r gets the r-th contiguous block of it. For an image that cannot be read another
    stands in, with its own index and views.
    """

    images: Images
    augmentation: Augmentation
    view_size: int
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    seed: int = 0
    key_views: bool = True
    rank: int = 0
    ranks: int = 1
    decode: Literal["exact", "scaled"] = "exact"
    device: str = "cpu"
    """Where `run` leaves the batches."""
    feed: bool | None = None
    """Finish views on the device, to which crops travel as bytes; by default where that is not the CPU."""
    dtype: torch.dtype = torch.float32
    """What views are stored as where they are finished on the device."""
    compiled: bool = False
    """Compile what finishes them there."""

    def __post_init__(self) -> None:
        if self.batch_size > len(self.images):
            raise BadInputError(
                f"--batch-size is {self.batch_size}, and there are {len(self.images)} images: "
                f"give a smaller batch or more images"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in one pass over the images."""
        return len(self.images) // self.batch_size

    def plan(self, step: int) -> Integers:
        """Say which images are this rank's share of the batch of `step`, whether they can be read or not."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.ranks
        first = batch * self.batch_size + self.rank * share
        return permute(range(first, first + share), len(self.images), seed=self.seed, stream=Stream.ORDER, epoch=epoch)

    def __getitem__(self, step: int) -> Batch:
        """Make the batch of `step`."""
        chosen = self._choose(step)
        views = make_views(chosen, self._streams, self.look)
        return _join_views(views, torch.from_numpy(chosen.index), chosen.replaced())

    def crop(self, step: int, *, with_pixels: bool = True) -> Crops:
        """Make what is to be finished, on a device, to the batch of `step`."""
        return make_crops(self._choose(step), self._streams, self.look, with_pixels=with_pixels)

    @property
    def _streams(self) -> tuple[Stream, ...]:
        return (Stream.VIEW_QUERY, Stream.VIEW_KEY)[: 1 + self.key_views]

    def _choose(self, step: int) -> ChosenImages:
        return ChosenImages(self.images, self.plan(step), step // self.steps_per_epoch, self.seed)

    def make_views(self, index: Integers, epoch: int | Integers, streams: Sequence[Stream]) -> list[Tensor]:
        """Make, for each stream, the views (n, 3, H, W) that images have in an epoch, or each in its own."""
        return make_views(ChosenImages(self.images, index, epoch, self.seed), streams, self.look)

    @property
    def look(self) -> Look:
        """What the views have in common."""
        scaled = self.decode == "scaled"
        return Look(self.augmentation, self.view_size, self.mean, self.std, scaled)

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of steps start..stop-1, in order, made by `workers` processes (0: in this one)."""
        can_compile()  # before there are several processes, each of which would say where it cannot
        steps, views = range(start, stop), 1 + self.key_views
        pixels = len(self.plan(0)) * views * 3 * self.view_size**2
        if not (self.device != "cpu" if self.feed is None else self.feed):
            require_shared_memory(4 * pixels, workers, len(steps))
            return load_ahead(self.__getitem__, steps, workers)
        feed = Feed(self.images, self.look, self.device, self.dtype, self.compiled)
        make = functools.partial(self.crop, with_pixels=feed.held is None)
        require_shared_memory(pixels if feed.held is None else 0, workers, len(steps))
        loaded = load_ahead(make, steps, workers, pinned=feed.sender.stream is not None)
        return (_join_views(*finished) for finished in feed.run(loaded))


def _join_views(views: Sequence[Tensor], index: Tensor, replaced: tuple[Replaced, ...]) -> Batch:
    return Batch(views[0], views[1] if len(views) > 1 else None, index, replaced)


def load_ahead(
    make: Callable[[Item], Made], items: Sequence[Item], workers: int, *, pinned: bool = False
) -> Iterator[Made]:
    """Yield what `make` gives for each item, in order, made ahead by `workers` processes (0: in this one).

    With `pinned` tensors come in memory from which a GPU reads by itself: what is made has `pin_memory`.
    Raises the BadInputError that `make` raises, wherever it did.
    """
    own = torch.Generator()  # the loader draws a seed for its processes: not from what models draw from
    with _loading_ended() as (begin, loading):
        loader = DataLoader(
            _ErrorsAsItems(make), batch_size=None, sampler=items, num_workers=workers, generator=own,
            worker_init_fn=begin, collate_fn=_keep_as_is, pin_memory=pinned,
        )  # fmt: skip
        others = set(multiprocessing.active_children())
        made_ahead = iter(loader)
        loading.extend(set(multiprocessing.active_children()) - others)
        for one in made_ahead:
            if isinstance(one, BadInputError | ChildProcessError):
                raise one
            yield ForkingPickler.loads(one.content) if isinstance(one, _Packed) else one


@contextmanager
def _loading_ended() -> Iterator[tuple[Callable[[int], None], list[BaseProcess]]]:
    """Give what loading processes begin with, and a list for them.

    On leaving they end, also those that wait for a file or were stopped.
    """
    ended, held = multiprocessing.Pipe(duplex=False)
    loading: list[BaseProcess] = []

    def end() -> None:
        held.close()
        for process in loading:
            if process.pid is not None and process.is_alive() and sys.platform != "win32":
                os.kill(process.pid, signal.SIGCONT)  # so that one that was stopped sees it

    atexit.register(end)  # before multiprocessing waits for its processes
    try:
        yield functools.partial(_begin_loading, ended, held, _last_words()[1]), loading
    finally:
        atexit.unregister(end)
        end()
        ended.close()


@dataclass(frozen=True)
class _ErrorsAsItems(Dataset[Any]):
    """Returns an error in place of the item: torch would make it the traceback of a worker process."""

    make: Callable[[Any], Any]

    def __getitem__(self, item: Any) -> Any:
        try:
            made = self.make(item)
        except BadInputError as error:
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
            f"a process that loads images cannot hand them over ({one_line(error)}): give more shared memory (docker "
            f"run --shm-size 2g), a shorter TMPDIR (now {gettempdir()}), or --workers 0"
        )


def _keep_as_is(one: Made) -> Made:
    """Change nothing: torch would make lists of tuples."""
    return one


@contextmanager
def watch_loading(
    after: str = "The last checkpoint is sound: the same command goes on from it",
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
            reason, do = _last_words()[0].recv(), ""
        said = " ".join(part for part in (reason, do, after) if part)
        raise ChildProcessError(f"a process that loads images is lost: {said}") from error


@functools.cache
def _last_words() -> tuple[Connection, Connection]:
    """Make the pipe by which a process that gives up says why."""
    return multiprocessing.Pipe(duplex=False)


def _begin_loading(ended: Connection, held: Connection, last_words: Connection, worker: int) -> None:
    """Let a loading process go on until the training ends, also where torchrun or a terminal signals all of a group.

    It ends at once where the other side of `ended` is closed, or its parent is killed, whatever it waits for.
    """
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # one that is stopped cannot see that its parent is gone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    held.close()

    def give_up(why: str) -> None:
        last_words.send(why)
        os._exit(1)

    give_up_by(give_up)
    threading.Thread(target=_end_with_parent, args=[ended], daemon=True).start()


def _end_with_parent(ended: Connection) -> None:
    parent = multiprocessing.parent_process()
    wait([ended] if parent is None else [ended, parent.sentinel])
    os._exit(0)  # another code is a failure to torch
