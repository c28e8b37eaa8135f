"""The nearest other images of every image, in blocks that bound the memory."""

import torch
from torch import Tensor

from moco.evaluation.knn import QUERIES_AT_A_TIME, nearest
from moco.shapes import Features


def find_others(z: Features, k: int) -> tuple[Tensor, Tensor]:
    """Find similarities and rows (N, k) of the k other images most similar to each, nearest first.

    Features (N, C) have unit length. Of fewer than k others all are found.
    """
    found = [_find_beside(z, start, min(k, len(z) - 1)) for start in range(0, len(z), QUERIES_AT_A_TIME)]
    return torch.cat([similarity for similarity, _ in found]), torch.cat([row for _, row in found])


def _find_beside(z: Features, start: int, k: int) -> tuple[Tensor, Tensor]:
    queries = z[start : start + QUERIES_AT_A_TIME]
    similarity, row = nearest(queries, z, k + 1)
    own = torch.arange(start, start + len(queries))[:, None]
    others = (row == own).to(torch.uint8).sort(dim=1, stable=True).indices[:, :k]  # itself, or the last, goes
    return similarity.gather(1, others), row.gather(1, others)
