"""What predictions are worth: accuracies, and how certain it is that two of them differ."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.data.images import Images, Labels
from moco.errors import BadInputError, DivergedError

Z_95 = 1.959964
"""The normal distribution has 95% of its mass within this many standard deviations."""
TAIL = 0.025
"""The share of the distribution beyond one end of a 95% interval."""
CONFUSION_UP_TO = 200
"""Classes for which a table of confusions is kept."""


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent, and the predicted class of each image."""

    top1: float
    top5: float
    predicted: Labels

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures for the JSON result."""
        return {"top1": self.top1, "top5": self.top5}

    def describe(self, classes: int) -> str:
        """Describe the accuracies; top-5 only where there are more than five classes, as it says nothing of fewer."""
        return f"top-1 {self.top1:.2f}%" + (f", top-5 {self.top5:.2f}%" if classes > 5 else "")


def score_logits(logits: Tensor, labels: Labels) -> Scores:
    """Score logits (N, classes); of equal ones the lower class number wins.

    Raises DivergedError where one is not finite: sorted they would give a figure all the same.
    """
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError("the classifier's outputs are not finite numbers: give a smaller learning rate")
    ranking = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
    return _score_ranking(ranking, ranking == torch.from_numpy(labels)[:, None])


def score_votes(votes: Tensor, labels: Labels) -> Scores:
    """Score votes (N, classes) as `score_logits` does, but a class without a vote is no answer.

    k neighbours name k classes at most. The classes that fill up the first five would be guesses. Raises DivergedError
    where a vote is not finite.
    """
    if not bool(torch.isfinite(votes).all()):
        raise DivergedError("the neighbours' votes are not finite numbers, because the features are not")
    ranking = votes.sort(dim=1, descending=True, stable=True).indices[:, :5]
    named = votes.gather(1, ranking) > 0
    return _score_ranking(ranking, named & (ranking == torch.from_numpy(labels)[:, None]))


def _score_ranking(ranking: Tensor, correct: Tensor) -> Scores:
    """Score the first classes (N, 5) of each image, given which of them are right."""
    top1, top5 = (100 * float(hits.float().mean()) for hits in (correct[:, 0], correct.any(1)))
    return Scores(round(top1, 3), round(top5, 3), ranking[:, 0].numpy().astype(np.int64))


@dataclass(frozen=True)
class Interval:
    """The difference of two accuracies on the same images in percentage points, with its 95% interval."""

    difference: float
    low: float
    high: float


def paired_interval(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> Interval:
    """Return the accuracy of a minus that of b, with its paired 95% interval.

    With p and q the shares of images that only a, or only b, gets right, the difference is p - q and its variance is
    (p + q - (p - q)^2) / n (the normal interval that belongs to McNemar's test). Where each image is right by the same
    one only, as of one or two images, that would be 0: there p (or q) is at least 0.025^(1/n), the exact bound. Raises
    BadInputError where the two are not of the same images.
    """
    if len(correct_a) != len(correct_b) or len(correct_a) == 0:
        raise BadInputError(
            f"a paired interval needs two results of the same images, got {len(correct_a)} and {len(correct_b)}"
        )
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    only_a, only_b = float((a & ~b).mean()), float((b & ~a).mean())
    difference = only_a - only_b
    return _interval(difference, (only_a + only_b - difference**2) / len(a), len(a))


def compare_draws(found: Sequence[Labels], baseline: Sequence[Labels], truth: Labels) -> Interval:
    """Return the mean lead over draws of labels, given the classes that each draw predicts for the test images.

    The variance is the sum of two: that of the images' mean leads over draws, divided by the number of images, and the
    sample variance of the draws' leads, divided by their number. Of one draw the interval is the paired one.
    """
    leads = np.stack([(a == truth).astype(float) - (b == truth) for a, b in zip(found, baseline, strict=True)])
    draws, images = leads.shape
    variance = float(leads.mean(0).var()) / images
    if draws > 1:
        variance += float(leads.mean(1).var(ddof=1)) / draws
    return _interval(float(leads.mean()), variance, images)


def _interval(difference: float, variance: float, images: int) -> Interval:
    reach = Z_95 * math.sqrt(variance)
    if abs(difference) == 1:
        reach = 2 - 2 * TAIL ** (1 / images)
    low, high = max(-1.0, difference - reach), min(1.0, difference + reach)
    return Interval(*(round(100 * value, 3) for value in (difference, low, high)))


def compare_scores(found: Scores, baseline: Scores, truth: Labels) -> dict[str, float]:
    """Give a baseline's `top1` and `top5`, and `found`'s lead over it, paired: `difference`, `low` and `high`."""
    interval = paired_interval((found.predicted == truth).tolist(), (baseline.predicted == truth).tolist())
    return {**baseline.figures, **dataclasses.asdict(interval)}


def describe_lead(gain: Mapping[str, float]) -> str:
    """Describe a lead with its interval."""
    return f"{gain['difference']:+.2f} points, 95% interval {gain['low']:+.2f} to {gain['high']:+.2f}"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (None of a single value), and the values."""
    deviation = round(float(np.std(values, ddof=1)), 3) if len(values) > 1 else None
    return {"mean": round(float(np.mean(values)), 3), "deviation": deviation, "each": list(values)}


def describe_predictions(images: Images, predicted: Labels) -> dict[str, Any]:
    """Collect what a report shows of predictions: the class predicted for each image, and the confusion matrix."""
    assert images.labels is not None
    classes = len(images.classes)
    detail: dict[str, Any] = {"classes": list(images.classes), "predicted": [int(label) for label in predicted]}
    if classes <= CONFUSION_UP_TO:
        counts = np.bincount(images.labels * classes + predicted, minlength=classes * classes)
        detail["confusion"] = counts.reshape(classes, classes).tolist()
    return detail
