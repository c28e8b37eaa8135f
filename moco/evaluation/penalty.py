"""The penalty of a logistic regression, chosen on images that the classifier was not fitted to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from moco.data.images import Labels
from moco.data.splits import hold_out_tenth
from moco.evaluation.logistic import ROUGH, AxisWeights, Classifier, ViewFeatures, pose, solve
from moco.runtime.progress import show_progress
from moco.runtime.randomness import Stream, permute
from moco.shapes import Features

UNCHOSEN = 0.01
"""The penalty, or the nearest to it, where nothing can be held out: with one image for each class."""
FOLDS = 5
ENOUGH = 10_000
"""Images from which on one tenth is held out. Of fewer it would say little, so these are cross-validated."""
PATIENCE = 2
"""Penalties that may be worse than the best before smaller ones are no longer tried."""


@dataclass(frozen=True)
class Part:
    """The rows of images to fit, and features of others with their labels to choose by."""

    rows: Labels
    held_out: Features
    truth: Labels


@dataclass(frozen=True)
class Tried:
    """A penalty, and what it reached on the held-out images of all parts."""

    penalty: float
    held_out: float
    """Top-1 in percent."""
    loss: float
    """Mean cross-entropy."""


@dataclass(frozen=True)
class Fit:
    """A classifier fitted to all images, its penalty, and the penalties that were tried for it."""

    classifier: Classifier
    penalty: float
    path: list[Tried]


def divide(labels: Labels, centres: Features) -> list[Part]:
    """Hold a tenth out; of fewer than 10,000 images, a fifth of each class in turn."""
    count = len(labels)
    if count >= ENOUGH:
        pairs = [hold_out_tenth(count)]
    else:
        order = permute(range(count), count, seed=0, stream=Stream.SPLIT, epoch=0)
        fold = np.empty(count, np.int64)
        fold[order] = count_before(labels[order]) % FOLDS
        pairs = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(FOLDS)]
    return [Part(inside, centres[torch.from_numpy(outside)], labels[outside]) for inside, outside in pairs]


def count_before(labels: Labels) -> Labels:
    """Count for each image those of its class before it."""
    found = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        found[members] = np.arange(len(members))
    return found


@dataclass(frozen=True)
class Candidate:
    """Features of all images that a classifier may be fitted to, and held-out ones in the same form."""

    features: ViewFeatures
    parts: Sequence[Part]


def fit(
    features: ViewFeatures,
    labels: Labels,
    classes: int,
    penalties: Sequence[float],
    parts: Sequence[Part],
    device: str = "cpu",
    title: str | None = None,
) -> Fit:
    """Choose the penalty with the lowest cross-entropy on the parts' held-out images, and fit all images with it.

    Accuracy would choose worse: it counts few images (docs/measurements.md).
    """
    return fit_best([Candidate(features, parts)], labels, classes, penalties, device, title)[1]


def fit_best(
    candidates: Sequence[Candidate],
    labels: Labels,
    classes: int,
    penalties: Sequence[float],
    device: str = "cpu",
    title: str | None = None,
) -> tuple[int, Fit]:
    """Choose one of several features in the same way as the penalty, and fit all images; return its number, too.

    Of equals, and where nothing can be held out, the first is taken.
    """
    paths = [
        try_penalties(one.features, labels, classes, penalties, one.parts, device, title)
        if len(penalties) > 1 or len(candidates) > 1
        else []
        for one in candidates
    ]
    lowest = [min((tried.loss for tried in path), default=math.inf) for path in paths]
    best = lowest.index(min(lowest))
    if paths[best]:
        chosen = min(paths[best], key=lambda tried: tried.loss).penalty
    else:
        chosen = min(penalties, key=lambda penalty: abs(math.log(penalty / UNCHOSEN)))
    problem = pose(candidates[best].features, labels, classes, np.arange(len(labels)), device)
    return best, Fit(problem.classifier(solve(problem, chosen)), chosen, paths[best])


def try_penalties(
    features: ViewFeatures,
    labels: Labels,
    classes: int,
    penalties: Sequence[float],
    parts: Sequence[Part],
    device: str = "cpu",
    title: str | None = None,
) -> list[Tried]:
    """Fit every part with one penalty after another, from the largest down, until the held-out loss rises.

    Each fit starts from the one before. Held-out images of a class that their part lacks are left out; where no others
    are left, nothing is tried.
    """
    known = [np.isin(part.truth, labels[part.rows]) for part in parts]
    parts = [
        Part(part.rows, part.held_out[torch.from_numpy(rows)], part.truth[rows])
        for part, rows in zip(parts, known, strict=True)
        if rows.any()
    ]
    problems = [pose(features, labels, classes, part.rows, device) for part in parts]
    weights: list[AxisWeights | None] = [None] * len(parts)
    tried: list[Tried] = []
    ordered = sorted(penalties, reverse=True) if parts else []
    for penalty in show_progress(ordered, title, len(ordered)):
        loss, right = 0.0, 0
        for number, (problem, part) in enumerate(zip(problems, parts, strict=True)):
            weights[number] = solved = solve(problem, penalty, weights[number], ROUGH)
            logits, truth = problem.classifier(solved).logits(part.held_out), torch.from_numpy(part.truth)
            loss += float(F.cross_entropy(logits, truth, reduction="sum"))
            right += int((logits.argmax(1) == truth).sum())
        count = sum(len(part.truth) for part in parts)
        tried.append(Tried(penalty, round(100 * right / count, 3), round(loss / count, 6)))
        if len(tried) > PATIENCE and min(one.loss for one in tried[-PATIENCE:]) > min(one.loss for one in tried):
            break
    return tried
