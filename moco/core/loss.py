"""InfoNCE (v1, Eq. 1)."""

from typing import NamedTuple

import torch

from moco.core.dictionary import Keys
from moco.core.precision import at_least_fp32
from moco.shapes import Features, Scalar


class Contrast(NamedTuple):
    """What a batch of queries achieved: the loss and how many found their key before all others."""

    loss: Scalar
    """The mean InfoNCE; log(K + 1) is chance."""
    accuracy: Scalar
    """Percentage of queries whose positive is more similar than every negative."""


def info_nce(q: Features, keys: Keys, temperature: float) -> Contrast:
    """L_q = -log( exp(q.k+ / tau) / sum_i exp(q.k_i / tau) ), averaged over the batch, in fp32 or fp64 (v1, Eq. 1).

    q is (N, C); the sum runs over the positive, the K negatives but for those of the mask, and the S extra ones.
    """
    with torch.autocast(q.device.type, enabled=False):
        return _info_nce(at_least_fp32(q) / temperature, keys)


def _info_nce(q: Features, keys: Keys) -> Contrast:
    """The same for q / tau: dividing q and not the products saves a pass over (N, K)."""
    l_pos = (q * at_least_fp32(keys.positive)).sum(1)  # (N,)
    l_neg = q @ at_least_fp32(keys.negative).T  # (N, K)
    if keys.mask is not None:
        l_neg = l_neg.masked_fill(keys.mask, -torch.inf)
    if keys.extra is not None:
        l_neg = torch.cat([l_neg, torch.einsum("nc,nsc->ns", q, at_least_fp32(keys.extra))], dim=1)
    hardest = l_neg.detach().amax(1)  # (N,)
    log_sum = torch.logaddexp(l_pos, l_neg.logsumexp(1))
    accuracy = 100 * (l_pos.detach() > hardest).float().mean()
    return Contrast((log_sum - l_pos).mean(), accuracy)
