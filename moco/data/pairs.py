"""The batches of any set of items by any pretext."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from moco.data.ahead import load_ahead
from moco.data.images import Images
from moco.data.loader import Batch, plan_batch
from moco.data.pretext import Pairing
from moco.data.replacement import ChosenImages
from moco.errors import BadInputError
from moco.runtime.randomness import Integers, Stream
from moco.runtime.sharedmemory import require_shared_memory


@dataclass(frozen=True)
class PairBatches(Dataset[Batch]):
    """The batch of every step of a run, a pure function of (seed, step), as `ViewBatches` are of views.

    The order of the items, the ranks' shares and the stand-ins are those of `ViewBatches`.
    """

    images: Images
    """The items: whatever has names and marks by integer index."""
    pairing: Pairing
    batch_size: int
    view_size: int
    """Pixels along a side of a view, or bytes in a span."""
    seed: int = 0
    rank: int = 0
    ranks: int = 1
    mean: Sequence[float] = ()
    """The mean by which views are normalised; empty where x_q and x_k are no views of images."""
    std: Sequence[float] = ()
    device: str = "cpu"
    """Where the batches will be sent."""

    def __post_init__(self) -> None:
        if self.batch_size > len(self.images):
            raise BadInputError(
                f"--batch-size is {self.batch_size}, and there are {len(self.images)} items: give a smaller batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Count the full batches in one pass over the items."""
        return len(self.images) // self.batch_size

    def __getitem__(self, step: int) -> Batch:
        """Make the batch of `step`."""
        epoch, planned = plan_batch(step, len(self.images), self.batch_size, self.rank, self.ranks, self.seed)
        chosen = ChosenImages(self.images, planned, epoch, self.seed)
        x_q, x_k = self.pairing(chosen, (Stream.VIEW_QUERY, Stream.VIEW_KEY))
        return Batch(x_q, x_k, torch.from_numpy(chosen.index), chosen.replaced())

    def make_views(self, index: Integers, epoch: int | Integers, streams: Sequence[Stream]) -> list[Tensor]:
        """Make, for each stream, the side of the pairs that items have in an epoch, or each in its own."""
        return self.pairing(ChosenImages(self.images, index, epoch, self.seed), streams)

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of steps start..stop-1, in order, made by `workers` processes (0: in this one)."""
        if workers and start < stop:
            (one,) = self.make_views(plan_batch(start, len(self.images), 1, 0, 1, self.seed)[1], 0, (Stream.VIEW_KEY,))
            require_shared_memory(2 * one.nbytes * self.batch_size // self.ranks, workers, stop - start)
        return load_ahead(self.__getitem__, range(start, stop), workers, pinned=self.device == "cuda")
