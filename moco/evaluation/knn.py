"""Weighted k-nearest-neighbour classification (InstDisc, arXiv:1805.01978)."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.core.precision import exact_products
from moco.data.images import Images, Labels
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, encode
from moco.evaluation.scores import Scores, score_votes
from moco.evaluation.session import NEEDS_LABELS, labels_of
from moco.runtime.phases import say_if_slow
from moco.shapes import Bank, Features

QUERIES_AT_A_TIME = 1024
BANK_AT_A_TIME = 65536
"""Similarities that exist at a time are these two multiplied, in fp32: 0.27 GB."""
QUERIES_IN_FLIGHT = 32768
"""Number of queries whose neighbours are kept while the bank is read once for all of them."""
COLDEST = 1e-30
"""Temperature below which only the nearest count; fp32 would make much smaller ones 0."""
K_TO_TRY = (1, 3, 5, 10, 20, 50, 100, 200)
"""Candidates for k; the papers use 200."""
LEFT_OUT = 4000
"""Images of the bank that are classified for that choice, at most: the accuracies are then known to a point."""


def weighted_knn(
    bank: Bank,
    bank_labels: Labels,
    queries: Features,
    query_labels: Labels,
    *,
    k: int,
    temperature: float,
    classes: int,
) -> dict[str, float]:
    """Compute top1 and top5 (percent) of queries by the weighted votes of the k most similar features.

    A neighbour's vote weighs exp(similarity / t). bank is (B, C) and queries (N, C), all of unit length. A bank of
    fewer than k features votes as a whole. Features in fp16 are multiplied in fp32.
    """
    votes = knn_votes(bank, bank_labels, queries, k=k, temperature=temperature, classes=classes)
    return score_votes(votes, query_labels).figures


def knn_votes(
    bank: Bank, bank_labels: Labels, queries: Features, *, k: int, temperature: float, classes: int, device: str = "cpu"
) -> Tensor:
    """Return the votes (N, classes) for every query, computed on `device` in parts that bound the memory.

    Beside bank, queries and votes it takes some 2 GB for features of 2048 numbers, however many there are.
    """
    labels, votes = torch.from_numpy(bank_labels).to(device), torch.zeros(len(queries), classes)
    for part, out in zip(torch.split(queries, QUERIES_IN_FLIGHT), torch.split(votes, QUERIES_IN_FLIGHT), strict=True):
        similarity, neighbour = nearest(part.to(device).float(), bank, k)
        out.copy_(count_votes(similarity, labels[neighbour], temperature=temperature, classes=classes))
    return votes


def count_votes(similarity: Tensor, label: Tensor, *, temperature: float, classes: int) -> Tensor:
    """Count the votes (N, classes) of k neighbours, given the similarity and label (N, k) of each, nearest first."""
    gap = similarity - similarity[:, :1]
    weight = (gap / max(temperature, COLDEST)).exp()  # the nearest one's is 1: none overflows
    weight = weight.clamp(min=torch.finfo(weight.dtype).tiny)  # the most distant ones name their class all the same
    return weight.new_zeros(len(weight), classes).scatter_add_(1, label, weight)


def choose_k(
    bank: Bank,
    bank_labels: Labels,
    *,
    temperature: float,
    classes: int,
    device: str = "cpu",
    tries: Sequence[int] = K_TO_TRY,
) -> int:
    """Choose the k with which the most images of the bank (B, C) are classified right by the other images.

    At most `LEFT_OUT` images, spread evenly over the bank, are left out in turn. Of equal numbers the largest is
    chosen, and none that is larger than B - 1. The queries take no part.
    """
    right, _ = count_right(bank, bank_labels, temperature=temperature, classes=classes, device=device, tries=tries)
    return max(right, key=lambda k: (right[k], k), default=1)


def count_right(
    bank: Bank, bank_labels: Labels, *, temperature: float, classes: int, device: str = "cpu",
    tries: Sequence[int] = K_TO_TRY,
) -> tuple[dict[int, int], int]:  # fmt: skip
    """Count by k how many images of the bank (B, C) the others classify right, and of how many; see `choose_k`."""
    tries = [k for k in tries if k < len(bank)]
    right = dict.fromkeys(tries, 0)
    labels = torch.from_numpy(bank_labels).to(device)
    rows = torch.from_numpy(np.linspace(0, len(bank) - 1, min(len(bank), LEFT_OUT)).astype(np.int64))
    for part in torch.split(rows, QUERIES_IN_FLIGHT) if tries else ():
        own = part.to(device)
        similarity, neighbour = nearest_others(bank, own, max(tries))
        label = labels[neighbour]
        for k in tries:
            votes = count_votes(similarity[:, :k], label[:, :k], temperature=temperature, classes=classes)
            right[k] += int((votes.argmax(1) == labels[own]).sum())
    return right, len(rows)


def score_left_out(features: Features, labels: Labels, classes: int, temperature: float) -> float:
    """Return the percentage of images that the others classify right by features (n, C), with the k that suits best."""
    right, asked = count_right(F.normalize(features.float()), labels, temperature=temperature, classes=classes)
    return 100 * max(right.values(), default=0) / max(1, asked)


@exact_products()
def nearest(queries: Features, bank: Bank, k: int) -> tuple[Tensor, Tensor]:
    """Return the similarities and rows (N, k) of the k features of the bank that are most similar to each query.

    The bank goes by once, in parts; of those so far each query's k best are kept.
    """
    blocks = torch.split(queries, QUERIES_AT_A_TIME)
    similarity = [queries.new_empty(len(block), 0) for block in blocks]
    neighbour = [torch.empty(len(block), 0, dtype=torch.int64, device=queries.device) for block in blocks]
    for start in range(0, len(bank), BANK_AT_A_TIME):
        part = bank[start : start + BANK_AT_A_TIME].to(queries.device).float()
        for i, block in enumerate(blocks):
            near, row = (block @ part.T).topk(min(k, len(part)), dim=1)
            similarity[i], neighbour[i] = torch.cat([similarity[i], near], 1), torch.cat([neighbour[i], row + start], 1)
            if start:  # also where all are kept: the nearest must stand first
                similarity[i], best = similarity[i].topk(min(k, similarity[i].shape[1]), dim=1)
                neighbour[i] = neighbour[i].gather(1, best)
    return torch.cat(similarity), torch.cat(neighbour)


def nearest_others(bank: Bank, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find similarities and rows (N, k) of the k other features of the bank most similar to each of its `rows` (N,).

    Where more than k others equal a feature to the last bit, one of these may be left out in its place. Of fewer than k
    others all are found.
    """
    queries = bank[rows.to(bank.device)].to(rows.device).float()
    similarity, neighbour = nearest(queries, bank, min(k + 1, len(bank)))
    others = (neighbour == rows[:, None]).to(torch.uint8).sort(dim=1, stable=True).indices[:, :-1]  # itself goes last
    return similarity.gather(1, others), neighbour.gather(1, others)


def knn_scores(
    encoder: Encoder,
    bank: Images,
    queries: Images,
    how: Encoding,
    *,
    k: int | None,
    temperature: float,
    title: str | None = None,
    encoded: Callable[..., Features] = encode,
) -> tuple[Scores, int]:
    """Classify the queries by the bank's features; the scores, and the k that was given or, where none is, chosen.

    With a title, bars show progress. `encoded` is `encode` or takes its arguments. Raises BadInputError where either
    has no labels.
    """
    if bank.labels is None or queries.labels is None or len(bank.classes) < 2:
        raise BadInputError(f"kNN {NEEDS_LABELS}")
    how = dataclasses.replace(how, unit=True)
    features = [
        encoded(encoder, images, how, title=title and f"{title}: encoding {len(images)} images")
        for images in (bank, queries)
    ]
    labels, classes, device = labels_of(bank), len(bank.classes), str(next(encoder.parameters()).device)
    with say_if_slow(f"{title}: comparing {len(queries)} images with {len(bank)}") if title else nullcontext():
        asked: dict[str, Any] = {"temperature": temperature, "classes": classes, "device": device}
        k = choose_k(features[0], labels, **asked) if k is None else k
        votes = knn_votes(features[0], labels, features[1], k=k, **asked)
    return score_votes(votes, labels_of(queries)), k
