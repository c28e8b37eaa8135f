"""A bag of hashed n-grams over bytes with learned weights: documents -> features, by the names of `BAGS`."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.bytes import PADDING
from moco.runtime.randomness import philox
from moco.shapes import Documents, Features

BAGS = {"bytes-ngrams": 512}
"""The networks by name, and how many features each gives."""
LENGTHS = range(2, 5)
"""Bytes of an n-gram: parts of words and short words."""
BUCKETS = 1 << 15
"""N-grams are told apart by a hash of so many values."""
BASE, MIXER = 1_000_003, 0x45D9F3B
"""Factors of the hash, a polynomial of the bytes modulo 2^31 and a last mixing of its bits."""
PACE = 10.0
"""Scale of the logarithms of the weights, which would take hundreds of steps to become 1 otherwise."""


class NgramBag(nn.Module):
    """Bytes (N, L) -> features (N, width): norm(sum_b e^(a w_b) log(1 + n_b) d_b) over the buckets b of n-grams.

    n_b counts the n-grams in a bucket, w_b is learned and starts at 0, a is `PACE`, and d_b is a fixed random direction
    of signs (Achlioptas, doi:10.1016/S0022-0000(03)00025-4). TF-IDF compares documents by such counts and weights them
    by how rare a word is; here the loss weights them, without a list of words. A document may also come as S spans
    (N, S, L): their counts are added.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width
        self.log_weight = nn.Parameter(torch.zeros(BUCKETS))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Documents) -> Features:
        """Encode bytes x: spans (N, L), or documents of several spans (N, S, L)."""
        weighted = count_ngrams(x).log1p() * torch.exp(PACE * self.log_weight)
        y: Features = self.norm(weighted @ directions(self.num_features, x.device))
        return y


def count_ngrams(x: Documents) -> Tensor:
    """Count the n-grams of `LENGTHS` in spans x (N, L), or in all of a document's (N, S, L), by bucket: (N, BUCKETS).

    Those that reach into the padding do not count, but for the first and shortest: a byte alone has one.
    """
    size = x.shape[-1]
    x = F.pad(x, (0, LENGTHS[-1] - 1), value=PADDING).long()
    hashed, counts = torch.zeros_like(x[..., :size]), torch.zeros(len(x), BUCKETS, device=x.device)
    for n in range(1, LENGTHS[-1] + 1):
        last = x[..., n - 1 : n - 1 + size]
        hashed = (hashed * BASE + last + 1) % (1 << 31)
        if n in LENGTHS:
            whole = (last != PADDING).float()
            if n == LENGTHS[0]:
                whole[..., 0] = (x[..., 0] != PADDING).float()
            mixed = (hashed ^ hashed >> 15) * MIXER % (1 << 31)  # n-grams differ in few bits, and buckets should not
            counts.scatter_add_(1, ((mixed ^ mixed >> 15) % BUCKETS).flatten(1), whole.flatten(1))
    return counts


@lru_cache(maxsize=2)
def directions(width: int, device: torch.device) -> Tensor:
    """Return a row of `width` random signs for each bucket, (BUCKETS, width): the same in every process."""
    words = philox((np.arange(BUCKETS * width // 32), 0, 0, 0), seed=0)[0]
    signs = np.unpackbits(words.astype("<u4").view(np.uint8)).reshape(BUCKETS, width)
    return torch.from_numpy(signs.astype(np.float32) * 2 - 1).to(device)
