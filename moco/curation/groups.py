"""Groups of similar images: how many, the images that stand for each, and a name where there are labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from moco.data.images import Labels
from moco.explore.embed_run import divide_reduced, reduce_features
from moco.runtime.progress import show_progress
from moco.shapes import Features

Rows = npt.NDArray[np.int64]

TRIED = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
"""Numbers of groups to choose from."""
FEWEST_IMAGES = 4
"""Images in a group on average, below which no number is tried."""
JUDGED = 2000
"""Maximum number of images for the silhouette."""


@dataclass(frozen=True)
class Group:
    """Images that are alike."""

    rows: Rows
    """Nearest to the group's mean first."""
    label: int | None
    """The label that most of its images have; None without labels."""
    share: float
    """Share of its labelled images that have it."""


def divide_images(z: Features, k: int | None, title: str | None = None) -> tuple[Rows, float]:
    """Divide images into k groups by k-means, or into as many as have the largest silhouette; numbers (N,) and that.

    The silhouette (Rousseeuw, 1987) is the mean of (b - a) / max(a, b), with a an image's mean distance to its own
    group and b that to the nearest other one. It is computed on at most 2,000 images, spread evenly. With a
    title, a bar shows progress.
    """
    reduced = reduce_features(z.numpy())
    tried = [k] if k is not None else [one for one in TRIED if one * FEWEST_IMAGES <= len(z)] or [2]
    divided = (divide_reduced(reduced, one) for one in show_progress(tried, title, len(tried)))
    found = [(compute_silhouette(z, numbers), numbers) for numbers in divided]
    silhouette, numbers = max(found, key=lambda own: own[0])
    return numbers, silhouette


def compute_silhouette(z: Features, numbers: Rows) -> float:
    """Compute the mean silhouette of groups, -1 to 1, on some images; 0 where all are in one group."""
    from sklearn.metrics import silhouette_score

    rows = np.unique(np.linspace(0, len(z) - 1, min(JUDGED, len(z))).astype(np.int64))
    groups = len(np.unique(numbers[rows]))
    if not 1 < groups < len(rows):
        return 0.0
    return float(silhouette_score(z.numpy()[rows], numbers[rows]))


def describe_groups(z: Features, numbers: Rows, labels: Labels) -> list[Group]:
    """Order the images of each group by their distance to its mean, and find the label that most of them have."""
    return [_describe(z, np.flatnonzero(numbers == number), labels) for number in np.unique(numbers)]


def _describe(z: Features, rows: Rows, labels: Labels) -> Group:
    own = z[torch.from_numpy(rows)]
    order = torch.argsort(-(own @ own.mean(0)), stable=True).numpy()
    known = labels[rows][labels[rows] >= 0]
    if not len(known):
        return Group(rows[order], None, 0.0)
    counts = np.bincount(known)
    return Group(rows[order], int(counts.argmax()), float(counts.max() / len(known)))


def mean_share(groups: Sequence[Group]) -> float | None:
    """Compute the share of labelled images whose group is named by their label (purity); None without labels."""
    sizes = [len(group.rows) for group in groups if group.label is not None]
    shares = [group.share for group in groups if group.label is not None]
    return float(np.average(shares, weights=sizes)) if sizes else None
