"""The negatives that a loss meets: how they share its gradient, how many are false, and harder ones made of them."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.dictionary import Keys
from moco.core.precision import at_least_fp32
from moco.runtime.exchange import send
from moco.runtime.randomness import Stream, uniforms
from moco.shapes import Classes, Features, Index

LARGEST_QUERY_SHARE = 0.5
"""Largest share of a query in a negative mixed with it (MoCHi, 3.3): more would make it a positive."""
HARDEST = 0.01
"""The share of the negatives that counts as the hardest."""
QUERIES = 16
"""Queries of a batch that are looked at: a sixteenth of the paper's 256."""


class Hardness(NamedTuple):
    """How harder negatives are mixed from the N hardest shared ones of each query (MoCHi, arXiv:2010.01028)."""

    hardest: int
    """N: how many are taken; 0 for no mixing."""
    pairs: int = 0
    """s: points between two of them."""
    with_query: int = 0
    """s': points between one of them and the query."""


def mix_hard_negatives(q: Features, keys: Keys, hardness: Hardness, *, seed: int, step: int) -> Keys:
    """Mix the keys with `extra` negatives (n, s + s', C), without gradient (MoCHi, 3.2 and 3.3).

    Of the N negatives that are most similar to a query, h = norm(a n_i + (1 - a) n_j) with a in (0, 1), and
    h' = norm(b q + (1 - b) n_i) with b in (0, 1/2). i, j, a and b are a pure function of (seed, step), the same for all
    queries, each of which has hardest negatives of its own. With N = 0 the keys stay as they are.
    """
    if not hardness.hardest:
        return keys
    count, pairs = hardness.pairs + hardness.with_query, hardness.pairs
    numbers = uniforms(3, seed=seed, stream=Stream.MIX, epoch=step, index=range(count))
    drawn = send(torch.from_numpy(numbers), q.device)
    first, second = (drawn[:, :2] * hardness.hardest).long().unbind(1)  # ranks among the hardest
    weight = drawn[:, 2, None].to(torch.float32)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        q, negative = at_least_fp32(q.detach()), at_least_fp32(keys.negative)
        similarity = q @ negative.T
        if keys.mask is not None:
            similarity = similarity.masked_fill(keys.mask, -torch.inf)
        row = similarity.topk(hardness.hardest, dim=1).indices  # (n, N)
        n_i, n_j = negative[row[:, first]], negative[row[:, second[:pairs]]]  # (n, s + s', C), (n, s, C)
        a, b = weight[:pairs], LARGEST_QUERY_SHARE * weight[pairs:]
        mixed = a * n_i[:, :pairs] + (1 - a) * n_j
        with_query = b * q[:, None] + (1 - b) * n_i[:, pairs:]
        return keys._replace(extra=F.normalize(torch.cat([mixed, with_query], dim=1), dim=-1))


@torch.no_grad()
def negative_figures(
    q: Features, keys: Keys, temperature: float, index: Index, labels: Classes | None = None
) -> dict[str, Tensor]:
    """Return how the gradient of the loss is shared among the negatives of the first queries, mean over these.

    A negative's weight is its probability in the loss (v1, Eq. 1), by which it pushes the query away, as a share of all
    negatives': softmax(q.k / tau) over these. `effective_negatives`: exp of the entropy of the weights, K where all are
    equally hard. `hardest_weight`: percentage of the weight that the hardest hundredth has.

    With the labels of all images, `false_negatives`: percentage of those negatives of which the image is known that are
    of the query's own class; `false_negative_weight`: percentage of all weight that these have. Both are NaN where no
    image is known. Every figure is a scalar on the device of q, for which the host has not waited.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, some = at_least_fp32(q[:QUERIES].detach()), slice(len(q[:QUERIES]))
        l_neg = q @ at_least_fp32(keys.negative).T / temperature
        counted = torch.ones_like(l_neg, dtype=torch.bool) if keys.mask is None else ~keys.mask[some]
        l_neg = l_neg.masked_fill(~counted, -torch.inf)
        shared = l_neg.shape[1]
        if keys.extra is not None:
            l_neg = torch.cat([l_neg, torch.einsum("nc,nsc->ns", q, keys.extra[some]) / temperature], dim=1)
        weights = l_neg.softmax(1).nan_to_num()  # a query without any negative has none
        figures = {
            "effective_negatives": (-torch.xlogy(weights, weights)).sum(1).exp().mean(),
            "hardest_weight": 100 * weights.topk(math.ceil(HARDEST * l_neg.shape[1])).values.sum(1).mean(),
        }
        if labels is None or keys.images is None:
            return figures
        of_known = keys.images >= 0
        known = counted & of_known
        of_queries, of_keys = labels[index[some]], labels[keys.images.clamp(min=0)]
        false = known & (of_queries[:, None] == of_keys[None])
        rates = {
            "false_negatives": 100 * (false.sum() / known.sum().clamp(min=1)),
            "false_negative_weight": 100 * (weights[:, :shared] * false).sum(1).mean(),
        }
        return figures | {name: torch.where(of_known.any(), rate, torch.nan) for name, rate in rates.items()}
