"""The query encoder f_q and what makes the keys: the momentum encoder f_k, f_q itself, or nothing (v1, 3.2-3.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moco.core.dictionary import Dictionary, Mechanism
from moco.core.encoder import Encoder
from moco.runtime.distributed import gather_with_gradient, local_block, unwrap, world_size
from moco.runtime.exchange import exchange, send
from moco.runtime.randomness import Stream, permute
from moco.shapes import Features, Index, Inputs

KeySource = Callable[[Inputs | None, Index, int], Features]
"""Key views, their images' numbers and the epoch -> keys (N, C)."""


@dataclass(frozen=True)
class Teacher:
    """A frozen network that makes the keys (SEED, arXiv:2101.04731)."""

    width: int
    """C, the width of its features."""
    keys: KeySource
    features: Features | None = None
    """(images * (crops + 1), C), of unit length, where all images, then a crop of each and so on are encoded once."""
    digest: str = ""
    """SHA-256 of its tensors."""


class EncoderPair(nn.Module):
    """f_q, trained by gradient, and f_k, its slowly moving average (v1, Eq. 2).

    With the queue, keys come from f_k; with in-batch keys, from f_q with gradient; a memory bank needs none. The key
    batch, and only it, is shuffled over the BN groups of all ranks before it is encoded, and put back in order after
    (shuffling BN, v1, 3.3): a query and its key then do not share their batch statistics.

    A `teacher` takes the place of f_k: it is frozen, so there is nothing to update or to shuffle.
    """

    def __init__(
        self, encoder: Encoder, mechanism: Mechanism, *, seed: int = 0, teacher: Teacher | None = None,
        head_steps: int = 0,
    ) -> None:  # fmt: skip
        """Build f_k where the mechanism has one. In the first `head_steps` steps only the head is trained."""
        super().__init__()
        self.mechanism, self.seed, self.teacher, self.head_steps = mechanism, seed, teacher, head_steps
        self.f_q: nn.Module = encoder
        self.f_k = encoder.momentum_copy() if mechanism == "queue" and teacher is None else None

    @property
    def encoder(self) -> Encoder:
        """Return f_q itself, unwrapped if several processes train."""
        encoder = unwrap(self.f_q)
        assert isinstance(encoder, Encoder)
        return encoder

    @torch.no_grad()
    def keys(self, x_k: Inputs | None, step: int, index: Index | None = None, epoch: int = 0) -> Features | None:
        """Encode the key views x_k (N, 3, H, W) by f_k, shuffled, without gradient: (N, C). None without an f_k.

        A teacher makes the keys in its place, from the images' numbers `index` (N,) and the epoch too.
        """
        self._hold_backbone(step)
        if self.teacher is not None:
            assert index is not None
            return self.teacher.keys(x_k, index, epoch)
        if self.f_k is None or x_k is None:
            return None
        order, inverse = self._shuffle(len(x_k), step)
        return exchange(self.f_k(exchange(x_k, order)), inverse)

    def forward(
        self, x_q: Inputs, x_k: Inputs | None, k: Features | None, step: int, of_keys: nn.Module | None = None
    ) -> tuple[Features, Features | None]:
        """Encode the query views x_q (N, 3, H, W) by f_q, and x_k too where the keys carry gradient: q, k (N, C).

        Such keys are by the encoder `of_keys`, where the key views have one of their own.
        """
        self._hold_backbone(step)
        if self.mechanism != "in-batch" or self.teacher is not None:
            return self.f_q(x_q), k
        assert x_k is not None
        order, inverse = self._shuffle(len(x_k), step)
        x_k = exchange(x_k, order)
        if of_keys is None or of_keys is self.f_q:
            q, shuffled = self.f_q(torch.cat([x_q, x_k])).chunk(2)
        else:
            q, shuffled = self.f_q(x_q), of_keys(x_k)
        return q, gather_with_gradient(shuffled)[send(local_block(inverse), q.device)]

    @torch.no_grad()
    def update(self, m: float) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q, in fp32 and one fused call (v1, Eq. 2).

        Parameters only: the buffers of f_k, its batch normalisation's running statistics, are its own and follow from
        the keys that it encodes. The prediction head, whose parameters come last in f_q, has no counterpart.
        """
        if self.f_k is not None:
            theta_k, theta_q = tuple(self.f_k.parameters()), tuple(self.encoder.parameters())
            torch._foreach_lerp_(theta_k, theta_q[: len(theta_k)], 1 - m)

    def _hold_backbone(self, step: int) -> None:
        """Let only the head learn in the first `head_steps` steps."""
        self.encoder.trains_backbone = step >= self.head_steps

    def _shuffle(self, n: int, step: int) -> tuple[Tensor, Tensor]:
        """A permutation of the global batch, a pure function of (seed, step), and its inverse: on the host."""
        size = n * world_size()
        order = torch.from_numpy(permute(range(size), size, seed=self.seed, stream=Stream.SHUFFLE, epoch=step))
        return order, torch.argsort(order)


class Side(NamedTuple):
    """One side of the pairs: the encoders of its views, and the dictionary of its keys.

    Query and key views are mostly of one side. With an encoder each there are two, and the queries of one are compared
    with the keys of the other.
    """

    pair: EncoderPair
    dictionary: Dictionary
    whitened: bool = False
    """Whether its new head reads whitened features now."""


Sides = Sequence[Side]
"""The side of x_q first, the side of x_k last: one side, or two."""
