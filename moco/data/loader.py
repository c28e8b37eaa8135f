"""The batches of a run: the order of the images, and the two views of each."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from moco.data.ahead import load_ahead
from moco.data.augment import Augmentation
from moco.data.crops import Crops, make_crops
from moco.data.feed import Feed
from moco.data.images import Images
from moco.data.replacement import ChosenImages, Replaced
from moco.data.views import Look, can_compile, make_views
from moco.errors import BadInputError
from moco.runtime.device import cores
from moco.runtime.randomness import Integers, Stream, permute
from moco.runtime.sharedmemory import require_shared_memory


class Batch(NamedTuple):
    """Two views of each of N images, or what else a pretext pairs."""

    x_q: Tensor
    """(N, 3, H, W) for images"""
    x_k: Tensor | None
    """The same, or None where keys are no views."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(N,): the images that the views are of."""
    replaced: tuple[Replaced, ...] = ()
    """The images that could not be read; the index names those in their place."""

    def to(self, device: str) -> "Batch":
        """Move the tensors to the device; the host does not wait for those in pinned memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device == "cuda"))

    def pin_memory(self) -> "Batch":
        """Copy the tensors to memory from which a GPU reads by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        x_k = None if self.x_k is None else change(self.x_k)
        return Batch(change(self.x_q), x_k, change(self.index), self.replaced)


@runtime_checkable
class Batches(Protocol):
    """The source of the loop's batches."""

    @property
    def steps_per_epoch(self) -> int:
        """Count the batches in one pass over the images."""

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
    crops: int = 0
    """Crops of each image of which the views are parts, in turn; see Look."""

    def __post_init__(self) -> None:
        if self.batch_size > len(self.images):
            raise BadInputError(
                f"--batch-size is {self.batch_size}, and there are {len(self.images)} images: "
                f"give a smaller batch or more images"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Count the full batches in one pass over the images."""
        return len(self.images) // self.batch_size

    def plan(self, step: int) -> Integers:
        """Say which images are this rank's share of the batch of `step`, whether they can be read or not."""
        return plan_batch(step, len(self.images), self.batch_size, self.rank, self.ranks, self.seed)[1]

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
        """Return what the views have in common."""
        scaled = self.decode == "scaled"
        return Look(self.augmentation, self.view_size, self.mean, self.std, scaled, self.crops)

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of steps start..stop-1, in order, made by `workers` processes (0: in this one)."""
        can_compile()  # warn once, before there are several processes
        steps, views = range(start, stop), 1 + self.key_views
        pixels = len(self.plan(0)) * views * len(self.mean) * self.view_size**2
        fed = self.device != "cpu" if self.feed is None else self.feed
        if not fed or self.images.form is not None:  # only RGB is finished on a device
            require_shared_memory(4 * pixels, workers, len(steps))
            return load_ahead(self.__getitem__, steps, workers, pinned=self.device == "cuda")
        feed = Feed(self.images, self.look, self.device, self.dtype, self.compiled)
        make = functools.partial(self.crop, with_pixels=feed.held is None)
        require_shared_memory(pixels if feed.held is None else 0, workers, len(steps))
        loaded = load_ahead(make, steps, workers, pinned=feed.sender.stream is not None)
        return (_join_views(*finished) for finished in feed.run(loaded))


def plan_batch(step: int, count: int, batch_size: int, rank: int, ranks: int, seed: int) -> tuple[int, Integers]:
    """Say of which epoch a step is, and which of `count` items are the share of this rank, in their order."""
    epoch, batch = divmod(step, count // batch_size)
    share = batch_size // ranks
    first = batch * batch_size + rank * share
    return epoch, permute(range(first, first + share), count, seed=seed, stream=Stream.ORDER, epoch=epoch)


def _join_views(views: Sequence[Tensor], index: Tensor, replaced: tuple[Replaced, ...]) -> Batch:
    return Batch(views[0], views[1] if len(views) > 1 else None, index, replaced)


def choose_workers(given: int | None, images: Images, device: str = "cpu") -> int:
    """Choose how many processes load these images: one a core, for what is in memory none, or one that draws for a GPU.

    A `given` number stays. Beside a GPU two cores are left to the process that keeps it busy.

    Drawing 512 pairs of views takes 10 ms, in which a GPU could make half a step.
    """
    if given is not None:
        return given
    if not images.in_memory:
        return max(1, cores() - 2) if device == "cuda" else cores()
    return int(device == "cuda" and sys.platform == "linux")  # elsewhere the process would get a copy of the images
