"""Weighted k-nearest-neighbour classification (InstDisc, arXiv:1805.01978)."""

import dataclasses

import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.images import Images, Labels
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, encode
from moco.evaluation.scores import Scores, score_logits
from moco.evaluation.session import labels_of
from moco.shapes import Bank, Features

QUERIES_AT_A_TIME = 1024
BANK_AT_A_TIME = 65536
"""Similarities that exist at a time are these two multiplied, in fp32: 0.27 GB."""
COLDEST = 1e-30
"""Temperature below which only the nearest count; fp32 would make much smaller ones 0."""


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
    """Percentages top1 and top5 of queries whose class gets most of the votes of the k most similar features.

    A neighbour's vote weighs exp(similarity / t). bank is (B, C) and queries (N, C), all of unit length. A bank of
    fewer than k features votes as a whole. Features in fp16 are multiplied in fp32.
    """
    votes = knn_votes(bank, bank_labels, queries, k=k, temperature=temperature, classes=classes)
    return score_logits(votes, query_labels).figures


def knn_votes(
    bank: Bank, bank_labels: Labels, queries: Features, *, k: int, temperature: float, classes: int, device: str = "cpu"
) -> Tensor:
    """The votes (N, classes) for every query, computed on `device` in parts that bound the memory.

    Beside bank, queries and votes it takes some 2 GB for features of 2048 numbers, however many there are.
    """
    labels, votes = torch.from_numpy(bank_labels).to(device), torch.zeros(len(queries), classes)
    for part, out in zip(torch.split(queries, QUERIES_AT_A_TIME), torch.split(votes, QUERIES_AT_A_TIME), strict=True):
        similarity, neighbour = nearest(part.to(device).float(), bank, k)
        out.copy_(count_votes(similarity, labels[neighbour], temperature=temperature, classes=classes))
    return votes


def count_votes(similarity: Tensor, label: Tensor, *, temperature: float, classes: int) -> Tensor:
    """The votes (N, classes) of k neighbours, given the similarity and label (N, k) of each, nearest first."""
    gap = similarity - similarity[:, :1]
    weight = (gap / max(temperature, COLDEST)).exp()  # the nearest one's is 1: none overflows
    return weight.new_zeros(len(weight), classes).scatter_add_(1, label, weight)


def nearest(queries: Features, bank: Bank, k: int) -> tuple[Tensor, Tensor]:
    """The similarities and rows (N, k) of the k features of the bank that are most similar to each query.

    The bank is gone through in parts, of each of which the k best are kept.
    """
    similarity = queries.new_empty(len(queries), 0)
    neighbour = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), BANK_AT_A_TIME):
        part = bank[start : start + BANK_AT_A_TIME].to(queries.device).float()
        near, row = (queries @ part.T).topk(min(k, len(part)), dim=1)
        similarity, neighbour = torch.cat([similarity, near], 1), torch.cat([neighbour, row + start], 1)
        if start:  # also where all are kept: the nearest must stand first
            similarity, best = similarity.topk(min(k, similarity.shape[1]), dim=1)
            neighbour = neighbour.gather(1, best)
    return similarity, neighbour


def knn(
    encoder: Encoder, bank: Images, queries: Images, how: Encoding, *, k: int, temperature: float
) -> dict[str, float]:
    """Classify the queries by the bank's features. Raises BadInputError where either has no labels."""
    return knn_scores(encoder, bank, queries, how, k=k, temperature=temperature).figures


def knn_scores(
    encoder: Encoder,
    bank: Images,
    queries: Images,
    how: Encoding,
    *,
    k: int,
    temperature: float,
    title: str | None = None,
) -> Scores:
    """`knn` with the class that each query was taken for. With a title, bars show progress."""
    if bank.labels is None or queries.labels is None or len(bank.classes) < 2:
        raise BadInputError("kNN needs labels: class folders, at least two")
    how = dataclasses.replace(how, unit=True)
    features = [
        encode(encoder, images, how, title=title and f"{title}: encoding {len(images)} images")
        for images in (bank, queries)
    ]
    device = next(encoder.parameters()).device
    votes = knn_votes(
        features[0], labels_of(bank), features[1], k=k, temperature=temperature, classes=len(bank.classes),
        device=str(device),
    )  # fmt: skip
    return score_logits(votes, labels_of(queries))
