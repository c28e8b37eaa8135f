"""The nearest other images of every image, in blocks that bound the memory."""

import torch
from torch import Tensor

from moco.evaluation.knn import QUERIES_AT_A_TIME, nearest_others
from moco.shapes import Features


def find_others(z: Features, k: int) -> tuple[Tensor, Tensor]:
    """Find similarities and rows (N, k) of the k other images most similar to each, nearest first.

    Features (N, C) have unit length. Of fewer than k others all are found.
    """
    found = [nearest_others(z, rows, k) for rows in torch.split(torch.arange(len(z)), QUERIES_AT_A_TIME)]
    return torch.cat([similarity for similarity, _ in found]), torch.cat([row for _, row in found])
