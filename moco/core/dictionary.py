"""The three dictionaries of v1, Fig. 2, and a teacher's keys, behind the same two methods: `read` and `write`."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.precision import at_least_fp32
from moco.errors import BadInputError
from moco.runtime.distributed import fetch, gather, gather_with_gradient, local_block, share, world_size
from moco.runtime.exchange import send
from moco.runtime.randomness import Stream, permute, philox
from moco.shapes import Bank, ExtraNegatives, Features, Index, Mask, Negatives

Mechanism = Literal["queue", "memory-bank", "in-batch"]

SHARD_FROM = 1 << 30
"""Bytes from which on a memory bank is cut over the ranks: 2 million features of 128 fp32 numbers."""
CHUNK = 1 << 16
"""Rows of a memory bank that are drawn together at its start."""


class Keys(NamedTuple):
    """What the queries of one batch are compared with."""

    positive: Features
    """The key of each query's own image, (N, C)."""
    negative: Negatives
    """The keys that all queries share, (K, C)."""
    extra: ExtraNegatives | None = None
    """Further negatives of each query's own, (N, S, C)."""
    mask: Mask | None = None
    """True where a shared key does not count for a query, (N, K)."""
    images: Index | None = None
    """The image that each shared key is of, (K,); -1 for none."""


class Queue(nn.Module):
    """The last K keys of the momentum encoder, first in, first out (v1, 3.1).

    It starts with K random unit keys of index -1, so that chance is log(K + 1) from the first step on. Any batch of at
    most K keys can be written: what does not fit before the end wraps to the start. Every key keeps the index of its
    image and the number of the write that brought it.

    With `mask_own`, older keys of a query's own image are not its negatives. No gradient passes. A queue of size 0
    holds nothing, for negatives that come from the batch alone (`add_batch_keys`).
    """

    keys: Tensor  # (K, C)
    index: Tensor  # (K,): the image a key came from, -1 for none
    written: Tensor  # (K,): the write that brought it, -1 for none

    def __init__(self, size: int, feature_dim: int, *, mask_own: bool = False, seed: int = 0) -> None:
        super().__init__()
        if size < 0:
            raise BadInputError(f"--queue-size is {size}: expected at least one key (the paper's is 65536)")
        self.size, self.mask_own = size, mask_own
        self.register_buffer("keys", _random_unit_vectors(size, feature_dim, seed))
        self.register_buffer("index", torch.full((size,), -1))
        self.register_buffer("written", torch.full((size,), -1))
        self.writes = 0
        self.oldest = 0  # where the next key goes

    def read(self, k: Features | None, index: Index) -> Keys:
        """Compare each query with its own key k (N, C) and with the whole queue."""
        assert k is not None
        mask = index[:, None] == self.index[None] if self.mask_own else None
        return Keys(positive=k, negative=self.keys, mask=mask, images=self.index)

    @torch.no_grad()
    def write(self, q: Features, k: Features | None, index: Index) -> None:
        """Enqueue the keys k (N, C) of every rank, and dequeue as many of the oldest."""
        if not self.size:
            return
        assert k is not None
        k, index = gather(at_least_fp32(k.detach())), gather(index)
        if len(k) > self.size:
            raise BadInputError(
                f"a batch of {len(k)} keys does not fit into a queue of {self.size}: give a larger --queue-size"
            )
        start, fitting = self.oldest, min(len(k), self.size - self.oldest)
        for first, rows in ((start, slice(fitting)), (0, slice(fitting, None))):
            block = slice(first, first + len(k[rows]))
            self.keys[block] = k[rows]
            self.index[block] = index[rows]
            self.written[block] = self.writes
        self.writes += 1
        self.oldest = (start + len(k)) % self.size

    def age(self) -> Tensor:
        """Return how many writes ago each key came, (K,): 0 for the newest, -1 for the random keys of the start."""
        return torch.where(self.written < 0, -1, self.writes - 1 - self.written)

    def get_extra_state(self) -> Tensor:
        """Return the counters, for the state_dict."""
        return torch.tensor([self.writes, self.oldest])

    def set_extra_state(self, state: Tensor) -> None:
        """Load the counters from the state_dict."""
        self.writes, self.oldest = state.tolist()


class BatchKeys(NamedTuple):
    """The keys of a whole batch, of every rank, without gradient (v3, Algorithm 1)."""

    k: Features
    images: Index


def gather_batch_keys(k: Features, index: Index) -> BatchKeys:
    """Gather the keys k (N, C) that f_k made of a batch, with their images, from every rank."""
    return BatchKeys(gather(at_least_fp32(k.detach())), gather(index))


def add_batch_keys(keys: Keys, index: Index, batch: BatchKeys | None) -> Keys:
    """Append the keys of the whole batch and mask each query's own: N - 1 more negatives.

    With an empty queue these are the logits of v3's ctr(q, k). Where `batch` is None the keys stay as they are.
    """
    if batch is None:
        return keys
    assert keys.images is not None
    own = index[:, None] == batch.images[None]
    mask = own.new_zeros(len(index), len(keys.negative)) if keys.mask is None else keys.mask
    return keys._replace(
        negative=torch.cat([keys.negative, batch.k]), mask=torch.cat([mask, own], 1),
        images=torch.cat([keys.images, batch.images]),
    )  # fmt: skip


class MemoryBank(nn.Module):
    """One stored feature for each image of the data set (v1, Fig. 2b; InstDisc, arXiv:1805.01978).

    The positive is the image's own entry, the negatives are K entries drawn without replacement, a pure function of
    (seed, step), the query's own masked. `write` moves an entry: norm(b old + (1 - b) q). No gradient passes.

    From `shard_from` bytes on, each of several ranks holds a contiguous share of the rows; the result is the same.
    """

    features: Tensor  # (images, C), or this rank's rows of it

    def __init__(
        self, images: int, feature_dim: int, *,
        negatives: int, momentum: float = 0.5, seed: int = 0, shard_from: int = SHARD_FROM,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= negatives <= images:
            raise BadInputError(
                f"--queue-size is {negatives}: a memory bank of {images} images draws between 1 and {images} negatives"
            )
        self.images, self.negatives, self.momentum, self.seed = images, negatives, momentum, seed
        large = images * feature_dim * torch.get_default_dtype().itemsize >= shard_from
        self.sharded = {"features": images} if large and world_size() > 1 else {}
        """Maps buffers that are divided by rows over the ranks to their total number of rows."""
        self.rows = share(images) if self.sharded else range(images)
        self.register_buffer("features", torch.empty(len(self.rows), feature_dim))
        for place, drawn in _random_rows(self.rows, images, feature_dim, seed):
            self.features[place : place + len(drawn)] = drawn
        self.step = 0

    def read(self, k: Features | None, index: Index) -> Keys:
        """Compare each query with its image's own entry and with K entries drawn at random."""
        drawn = permute(range(self.negatives), self.images, seed=self.seed, stream=Stream.BANK, epoch=self.step)
        rows = send(torch.from_numpy(drawn), index.device)
        mask = index[:, None] == rows[None]
        if not self.sharded:
            return Keys(self.features[index], self.features[rows], mask=mask, images=rows)
        every = gather(index)
        fetched = fetch(self.features, self.rows, torch.cat([every, rows]))
        positive = local_block(fetched[: len(every)])
        return Keys(positive, fetched[len(every) :], mask=mask, images=rows)

    @torch.no_grad()
    def write(self, q: Features, k: Features | None, index: Index) -> None:
        """Move the entries of the batch, those of every rank, towards the queries q (N, C)."""
        q, index = gather(at_least_fp32(q.detach())), gather(index)
        if len(self.rows):
            place, held = self._places(index)
            moved = F.normalize(self.features[place].lerp(q, 1 - self.momentum))
            if held is not None:  # rows of others repeat written ones, so the GPU need not be asked how many
                first = held.int().argmax(0, keepdim=True)
                place, moved = torch.where(held, place, place[first]), torch.where(held[:, None], moved, moved[first])
                moved = torch.where(held.any(), moved, self.features[place])
            self.features[place] = moved
        self.step += 1

    def _places(self, index: Index) -> tuple[Index, Tensor | None]:
        """Find the images' entries among this process's rows, and which of them are here; None: all of them."""
        if not self.sharded:
            return index, None
        held = (index >= self.rows.start) & (index < self.rows.stop)
        return (index - self.rows.start).clamp(0, len(self.rows) - 1), held

    def get_extra_state(self) -> Tensor:
        """Return the step, for the state_dict."""
        return torch.tensor([self.step])

    def set_extra_state(self, state: Tensor) -> None:
        """Load the step from the state_dict."""
        self.step = int(state)


class InBatch(nn.Module):
    """The current batch itself, with gradient to both sides (v1, Fig. 2a: end-to-end).

    The negatives of a query are the keys of all other images of the batch, over all ranks.
    """

    def read(self, k: Features | None, index: Index) -> Keys:
        """Compare each query with the keys k (N, C) of the whole batch, its own being the positive."""
        assert k is not None
        every_k, every_index = gather_with_gradient(k), gather(index)
        return Keys(positive=k, negative=every_k, mask=index[:, None] == every_index[None], images=every_index)

    def write(self, q: Features, k: Features | None, index: Index) -> None:
        """Do nothing: in-batch keys last for one step."""


class TeacherKeys(nn.Module):
    """A frozen teacher's features of all images, encoded once (SEED, arXiv:2101.04731, with the whole set as queue).

    Features of crops follow those of the whole images, as many as these. The positive is the feature of the image, or
    of its crop, the negatives are all features of other images. Nothing is written: these keys never go stale. They are
    no part of a checkpoint, since they follow from the teacher and the images.
    """

    features: Tensor  # (images * (crops + 1), C), unit length
    images: Tensor  # the image of each

    def __init__(self, features: Bank, images: int) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("images", torch.arange(len(features)) % images, persistent=False)

    def read(self, k: Features | None, index: Index) -> Keys:
        """Compare each query with its key k, by default its image's feature, and with those of all other images."""
        mask = index[:, None] == self.images[None]
        return Keys(self.features[index] if k is None else k, self.features, mask=mask, images=self.images)

    def write(self, q: Features, k: Features | None, index: Index) -> None:
        """Do nothing: the teacher's keys do not change."""


Dictionary = Queue | MemoryBank | InBatch | TeacherKeys


def _random_unit_vectors(count: int, feature_dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, feature_dim, generator=generator))


def _random_rows(rows: range, count: int, feature_dim: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Some rows of a table of `count` random unit vectors, in pieces, each with its place among `rows`.

    A chunk is a function of (seed, its number): a rank draws no more than it holds, and any number of ranks the same.
    """
    for first in range(rows.start // CHUNK * CHUNK, rows.stop, CHUNK):
        word, other = (int(words[0]) for words in philox(([first // CHUNK], 0, int(Stream.BANK), 1 << 30), seed)[:2])
        chunk = _random_unit_vectors(min(CHUNK, count - first), feature_dim, word << 31 | other >> 1)
        begin, end = max(rows.start, first), min(rows.stop, first + CHUNK)
        yield begin - rows.start, chunk[begin - first : end - first]
