"""How good features are, by measures that need no labels: of two views of each image, or of the images as they are.

Which of them says what kNN accuracy would say is measured in docs/label-free.md.
"""

import math

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor

from moco.data.images import Labels
from moco.evaluation.alignment import alignment, effective_rank, find_own_views, uniformity
from moco.shapes import Features

NEIGHBOURS = 10
"""Neighbours of an image that are compared between its two views."""
CLUSTERS = 10
"""Groups into which images are parted."""
STARTS = 3
"""Random starts of k-means; the best one counts."""


def measure_features(z: Features, z_1: Features, z_2: Features) -> dict[str, float]:
    """Compute every measure of the images' features z (N, C), and of two views of each, z_1 and z_2 (N, C).

    All rows are of unit length. Of every measure but `alignment` and `uniformity` more is meant to be better.
    """
    return {
        "retrieval": retrieve(z_1, z_2), "agreement": agree_on_neighbours(z_1, z_2), "separation": separate(z_1, z_2),
        "stability": agree_on_clusters(z_1, z_2), "silhouette": measure_silhouette(z), "rank": effective_rank(z),
        "alignment": alignment(z_1, z_2), "uniformity": uniformity(z),
    }  # fmt: skip


def retrieve(z_1: Features, z_2: Features) -> float:
    """Compute the percentage of images whose first view is nearest to their own second view, of all second views."""
    return 100 * float(find_own_views(z_1, z_2).float().mean())


def agree_on_neighbours(z_1: Features, z_2: Features, k: int = NEIGHBOURS) -> float:
    """Compute the percentage of each image's k nearest others among the first views that are so among the second."""
    k = min(k, len(z_1) - 1)
    first, second = (_neighbours(z, k) for z in (z_1, z_2))
    return 100 * float((first & second).sum()) / (k * len(z_1))


def separate(z_1: Features, z_2: Features) -> float:
    """Measure how much more similar two views of an image are than views of two images, in standard deviations."""
    similarity = z_1 @ z_2.T
    own = similarity.diagonal()
    others = similarity[~torch.eye(len(z_1), dtype=torch.bool)]
    spread = math.sqrt((float(own.var()) + float(others.var())) / 2)
    return float(own.mean() - others.mean()) / spread if spread > 0 else 0.0


def agree_on_clusters(z_1: Features, z_2: Features, clusters: int = CLUSTERS) -> float:
    """Compute how alike the groups are that k-means finds among first and second views: 1, and 0 by chance (ARI)."""
    first, second = (_cluster(z, clusters) for z in (z_1, z_2))
    return float(adjusted_rand_score(first, second))


def measure_silhouette(z: Features, clusters: int = CLUSTERS) -> float:
    """Compute how far apart k-means' groups are: the mean silhouette, from -1 to 1; 0 where there is one group."""
    found = _cluster(z, clusters)
    groups = len(np.unique(found))
    return float(silhouette_score(z.numpy(), found)) if 1 < groups < len(z) else 0.0


def _neighbours(z: Features, k: int) -> Tensor:
    """Whether j is among the k nearest others of i, (N, N) bool."""
    similarity = (z @ z.T).fill_diagonal_(-math.inf)
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, similarity.topk(k, dim=1).indices, True)


def _cluster(z: Features, clusters: int) -> Labels:
    found: Labels = KMeans(min(clusters, len(z)), n_init=STARTS, random_state=0).fit(z.numpy()).labels_.astype(np.int64)
    return found
