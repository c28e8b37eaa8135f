"""InfoNCE (v1, Eq. 1), and its likeness for a frozen teacher's keys (SEED, arXiv:2101.04731)."""

from typing import NamedTuple

import torch

from moco.core.dictionary import Keys
from moco.core.precision import at_least_fp32, exact_products
from moco.shapes import Features, Logits, PerImage, Scalar


class Contrast(NamedTuple):
    """The result of a batch of queries: the loss, and the share of queries most similar to their own key."""

    loss: Scalar
    """The mean InfoNCE; log(K + 1) is chance."""
    accuracy: Scalar
    """Percentage of queries whose positive is more similar than every negative."""


def info_nce(q: Features, keys: Keys, temperature: float) -> Contrast:
    """L_q = -log( exp(q.k+ / tau) / sum_i exp(q.k_i / tau) ), averaged over the batch, in fp32 or fp64 (v1, Eq. 1).

    q is (N, C); the sum runs over the positive, the K negatives except masked ones, and the S extra ones.
    """
    with torch.autocast(q.device.type, enabled=False):
        l_pos, l_neg = _similarities(at_least_fp32(q) / temperature, keys)  # saves a pass over (N, K)
        log_sum = torch.logaddexp(l_pos, l_neg.logsumexp(1))
        return Contrast((log_sum - l_pos).mean(), _accuracy(l_pos, l_neg))


def match_teacher(q: Features, keys: Keys, temperature: float, teacher_temperature: float) -> Contrast:
    """L = -sum_i p_i log s_i, averaged over the batch, in fp32 or fp64 (SEED, arXiv:2101.04731, Eq. 4 to 6).

    q (N, C) are the student's vectors, and the positives k (N, C) the teacher's of the same images. Both are compared
    with the same keys, the positive and the negatives: s = softmax(q.k_i / tau), p = softmax(k.k_i / tau_T). A
    teacher temperature of 0 puts all of p on the positive, which is InfoNCE. log(K + 1) is the loss where all s_i are
    equal.
    """
    if teacher_temperature == 0:
        return info_nce(q, keys, temperature)
    with torch.autocast(q.device.type, enabled=False):
        l_pos, l_neg = _similarities(at_least_fp32(q) / temperature, keys)
        log_s = torch.cat([l_pos[:, None], l_neg], 1).log_softmax(1)  # (N, 1 + K)
        with torch.no_grad():
            own, others = _similarities(at_least_fp32(keys.positive) / teacher_temperature, keys)
            p = torch.cat([own[:, None], others], 1).softmax(1)
        loss = -torch.where(p > 0, p * log_s, 0.0).sum(1).mean()  # masked keys have p = 0 and log s = -inf
        return Contrast(loss, _accuracy(l_pos, l_neg))


@exact_products()
def _similarities(q: Features, keys: Keys) -> tuple[PerImage, Logits]:
    """The products of each query with its positive (N,), and with its negatives (N, K + S): -inf where masked."""
    l_pos = (q * at_least_fp32(keys.positive)).sum(1)
    l_neg = q @ at_least_fp32(keys.negative).T
    if keys.mask is not None:
        l_neg = l_neg.masked_fill(keys.mask, -torch.inf)
    if keys.extra is not None:
        l_neg = torch.cat([l_neg, torch.einsum("nc,nsc->ns", q, at_least_fp32(keys.extra))], dim=1)
    return l_pos, l_neg


def _accuracy(l_pos: PerImage, l_neg: Logits) -> Scalar:
    """The percentage of queries whose positive is more similar than every negative."""
    return 100 * (l_pos.detach() > l_neg.detach().amax(1)).float().mean()
