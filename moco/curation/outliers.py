"""Images that are unlike the others, each with its reasons, and labels that the neighbours contradict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moco.curation.facts import Facts
from moco.data.images import Labels
from moco.evaluation.knn import count_votes
from moco.evaluation.logistic import pose, solve
from moco.shapes import Features

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

FAR = 3.0
"""Deviations from the median beyond which a distance or a sharpness is unusual."""
DEVIATION = 1.4826
"""The standard deviation of a normal distribution, divided by its median absolute deviation."""
LARGEST = 20.0
"""Deviations that one reason counts with, at most."""
CONSTANT = 0.02
"""Standard deviation of the brightness, 0 to 1, below which an image is nearly constant."""
GREY = 0.002
"""Mean distance of the colours, 0 to 1, below which an image is grey."""
RARE = 0.05
"""Share of grey images, or of those in colour, below which they are the exception."""
TINY = 4
"""An image is tiny if its shorter side is smaller than the median one by this factor."""
SMALL_GROUP, LARGEST_SMALL_GROUP = 0.01, 1000
"""Largest share of the images in a small cluster, and the size from which no cluster is small."""
SIMILARITIES_AT_A_TIME = 1 << 26
"""Similarities that exist at a time: 0.27 GB."""
CONSTANT_STRENGTH, COLOUR_STRENGTH = 10.0, 2.0
TEMPERATURE = 0.1
"""t in the weight of a vote on a label, exp(similarity / t)."""
FOLDS, PENALTY = 5, 0.01
"""Parts of the labelled images, each judged by the others, and the penalty of the classifier that judges."""
MOST_PRODUCTS = 10**10
"""Images times features times classes beyond which the neighbours' votes take its place."""


@dataclass(frozen=True)
class Outlier:
    """An image that is unlike the others."""

    row: int
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Suspicion:
    """An image whose neighbours have another label."""

    row: int
    label: int
    expected: int
    """The label that a classifier expects which did not see this one."""
    by_neighbours: int
    """The label that gets most of the neighbours' votes."""
    share: float
    """The classifier's probability of what it expects."""
    own_share: float
    """The probability of the image's own label."""


def rank_outliers(z: Features, similarity: Tensor, clusters: Rows, facts: Facts) -> list[Outlier]:
    """Rank all images from the most unusual on, by what is unusual about each, in deviations from the median.

    similarity (N, k) is that with the k nearest others. The score is the deviation of the distance to the k-th
    neighbour, plus that of each reason: a small cluster apart, hardly any contrast, noise or blur, a tiny image, the
    other colour space.
    """
    distance = 1 - similarity[:, -1].double().numpy()
    far = deviations(distance)
    apart = _isolation(z, clusters, distance)
    grain = deviations(np.log(facts.sharpness.astype(np.float64) + 1e-6))
    side = np.minimum(facts.height, facts.width)
    small = np.log2(np.median(side) / side)
    is_grey = facts.colour < GREY
    grey, coloured = is_grey & (is_grey.mean() < RARE), ~is_grey & ((~is_grey).mean() < RARE)
    constant = facts.contrast < CONSTANT
    causes: list[tuple[str, Scores]] = [
        ("nearly constant", np.where(constant, CONSTANT_STRENGTH, 0.0)),
        (
            f"tiny: the shorter side is less than 1/{TINY} of the median",
            np.where(small > np.log2(TINY), 3 * small, 0.0),
        ),
        ("grey among images in colour", np.where(grey, COLOUR_STRENGTH, 0.0)),
        ("in colour among grey images", np.where(coloured, COLOUR_STRENGTH, 0.0)),
        ("noise or much finer detail than in the others", np.where((grain > FAR) & ~constant, grain, 0)),
        ("blurred or much smoother than the others", np.where((grain < -FAR) & ~constant, -grain, 0)),
        ("in a small group apart from the others", np.where(apart > FAR, apart, 0)),
    ]
    strength = np.stack([np.clip(own, 0, LARGEST) for _, own in causes])
    score = np.clip(far, -LARGEST, LARGEST) + strength.sum(0)
    order = np.argsort(-score, kind="stable")
    names = [name for name, _ in causes]
    return [Outlier(int(row), float(score[row]), _reasons(names, strength[:, row], far[row])) for row in order]


def _reasons(names: Sequence[str], strength: Scores, far: float) -> tuple[str, ...]:
    found = [(float(own), name) for own, name in zip(strength, names, strict=True) if own > 0]
    if far > FAR:
        found.append((float(far), "far from everything"))
    return tuple(name for _, name in sorted(found, reverse=True)) or (
        "among the farthest from the others" if far > 0 else "nothing unusual",
    )


def deviations(values: Scores) -> Scores:
    """Measure how far values (N,) lie from the median, in median absolute deviations; 0 where all agree."""
    middle = np.median(values)
    spread = DEVIATION * np.median(np.abs(values - middle))
    return (values - middle) / spread if spread > 0 else np.zeros_like(values)


def _isolation(z: Features, clusters: Rows, distance: Scores) -> Scores:
    """Measure how far the images of small clusters are from all images outside, as a deviation of `distance`."""
    size = np.bincount(clusters)
    small = np.flatnonzero((size > 0) & (size <= max(FAR, min(SMALL_GROUP * len(z), LARGEST_SMALL_GROUP))))
    gap = np.full(len(z), np.median(distance))
    for cluster in small[size[small] < len(z)]:
        inside = torch.from_numpy(np.flatnonzero(clusters == cluster))
        for rows in torch.split(inside, max(1, SIMILARITIES_AT_A_TIME // len(z))):
            similarity = z[rows] @ z.T
            similarity[:, inside] = -torch.inf
            gap[rows.numpy()] = 1 - similarity.amax(1).double().numpy()
    spread = DEVIATION * np.median(np.abs(distance - np.median(distance)))
    return (gap - np.median(distance)) / spread if spread > 0 else np.zeros_like(gap)


def suspect_labels(similarity: Tensor, rows: Tensor, labels: Labels, classes: int, expected: Tensor) -> list[Suspicion]:
    """Rank the labelled images that a classifier expects to be of another class, the least expected labels first.

    expected (N, classes) are the probabilities of `expect_labels`. Of each image it is also said which class its k
    nearest others (N, k) vote for, with the weight exp(similarity / 0.1); those without a label (-1) do not vote.
    """
    known = torch.from_numpy(labels.copy())
    votes = share_votes(similarity, rows, labels, classes)
    own = expected.gather(1, known.clamp(min=0)[:, None])[:, 0]
    best, share = expected.argmax(1), expected.amax(1)
    suspected = [row for row in torch.argsort(own, stable=True).tolist() if known[row] >= 0 and best[row] != known[row]]
    return [
        Suspicion(row, int(known[row]), int(best[row]), int(votes[row].argmax()), float(share[row]), float(own[row]))
        for row in suspected
    ]


def share_votes(similarity: Tensor, rows: Tensor, labels: Labels, classes: int) -> Tensor:
    """Compute the share of the votes (N, classes) of the k nearest others (N, k)."""
    label = torch.from_numpy(labels.copy())[rows]
    own = torch.where(label < 0, classes, label)
    votes = count_votes(similarity, own, temperature=TEMPERATURE, classes=classes + 1)[:, :classes]
    return votes / votes.sum(1, keepdim=True).clamp(min=1e-30)


def expect_labels(z: Features, similarity: Tensor, rows: Tensor, labels: Labels, classes: int) -> Tensor:
    """Estimate the probability of each class (N, classes) for every image by a classifier that did not see its label.

    Logistic regression on four fifths of the labelled images says it of the last fifth, in turn (self-confidence,
    arXiv:1911.00068). Where that would take long, and where there are fewer than five labels, the neighbours vote.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) < FOLDS or z.numel() * classes > MOST_PRODUCTS:
        return share_votes(similarity, rows, labels, classes)
    expected = share_votes(similarity, rows, labels, classes)
    folds = np.random.default_rng(0).permutation(len(known)) % FOLDS
    for fold in range(FOLDS):
        problem = pose(z[None], labels, classes, known[folds != fold])
        left_out = torch.from_numpy(known[folds == fold])
        expected[left_out] = problem.classifier(solve(problem, PENALTY)).logits(z[left_out]).softmax(1)
    return expected
