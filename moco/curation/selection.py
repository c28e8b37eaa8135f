"""Which images to label first: spread over the set (k-centre), typical ones of its clusters (TypiClust), or random."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from moco.curation.neighbours import find_others
from moco.runtime.progress import show_progress
from moco.shapes import Features

Rows = npt.NDArray[np.int64]

MOST_CLUSTERS = 500
"""Clusters of the typical choice, at most (arXiv:2202.02794, appendix F)."""
NEIGHBOURS = 20
"""Number of nearest images in the cluster that define how typical an image is (section 3.2)."""
SMALLEST_CLUSTER = 5
"""Clusters of at most this size are skipped as long as there are larger ones."""


def choose_spread(z: Features, count: int, labelled: Sequence[int] = (), title: str | None = None) -> list[int]:
    """Choose `count` images so that every image has a chosen or labelled one near it: greedy k-centre.

    Each is the image that is farthest from all chosen and labelled ones before it (Sener and Savarese,
    arXiv:1708.00489, algorithm 1); the first, without labelled ones, is the one nearest to the mean. Features (N, C)
    have unit length. With a title, a bar shows progress.
    """
    chosen = list[int]()
    nearest = torch.full((len(z),), -2.0)  # similarity with the nearest chosen one
    for row in labelled:
        nearest = torch.maximum(nearest, z @ z[row])
    taken = torch.zeros(len(z), dtype=torch.bool)
    taken[list(labelled)] = True
    wanted = min(count, len(z) - len(labelled))
    for _ in show_progress(range(wanted), title, wanted):
        first = not chosen and not len(labelled)
        score = -(z @ z.mean(0)) if first else nearest
        row = int(torch.where(taken, torch.inf, score).argmin())
        chosen.append(row)
        taken[row] = True
        nearest = torch.maximum(nearest, z @ z[row])
    return chosen


def choose_typical(z: Features, clusters: Rows, count: int, labelled: Sequence[int] = ()) -> list[int]:
    """Choose `count` images, each the most typical one of a cluster that has the fewest chosen or labelled ones.

    Of such clusters the largest comes first, and those of up to 5 images last. The typicality of an image is the
    inverse of its mean distance to its 20 nearest images of the cluster (TypiClust, arXiv:2202.02794, section 3).
    """
    members = {int(cluster): np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)}
    have = {cluster: int(np.isin(rows, list(labelled)).sum()) for cluster, rows in members.items()}
    left = {cluster: _by_typicality(z, rows, labelled) for cluster, rows in members.items()}
    chosen = list[int]()
    while len(chosen) < count and any(left.values()):
        cluster = min(
            (own for own, rows in left.items() if rows),
            key=lambda own: (len(members[own]) <= SMALLEST_CLUSTER, have[own], -len(members[own]), own),
        )
        chosen.append(left[cluster].pop(0))
        have[cluster] += 1
    return chosen


def _by_typicality(z: Features, rows: Rows, labelled: Sequence[int]) -> list[int]:
    """The images of a cluster without the labelled ones, the most typical first."""
    distance = torch.zeros(len(rows))
    if len(rows) > 1:
        similarity, _ = find_others(z[torch.from_numpy(rows)], NEIGHBOURS)
        distance = (2 - 2 * similarity).clamp(min=0).sqrt().mean(1)
    known = set(labelled)
    return [int(rows[place]) for place in torch.argsort(distance, stable=True) if int(rows[place]) not in known]


def choose_random(images: int, count: int, seed: int, labelled: Sequence[int] = ()) -> list[int]:
    """Choose `count` of the images that are not labelled, by a seed."""
    left = np.setdiff1d(np.arange(images), np.array(labelled, np.int64))
    return [int(row) for row in np.random.default_rng(seed).permutation(left)[:count]]


def mean_gap(z: Features, chosen: Sequence[int]) -> float:
    """Compute the mean distance, 1 - similarity, of all images to the nearest chosen one; NaN where none is."""
    if not len(chosen):
        return float("nan")
    picked = z[list(chosen)]
    return float(torch.cat([1 - (part @ picked.T).amax(1) for part in torch.split(z, 4096)]).clamp(min=0).mean())
