"""Cityscapes' average precision of masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moco.transfer.average_precision import THRESHOLDS
from moco.transfer.cityscapes import EVALUATED, PER_CLASS, THINGS, find_void, label_of
from moco.transfer.objects import Flags, Floats, Integers
from moco.transfer.value_maps import Values

SMALLEST = 100
"""Objects of fewer pixels count neither as found nor as missed."""


@dataclass(frozen=True)
class Overlaps:
    """The m predicted masks of an image and its n objects and groups, in pixels."""

    labels: Integers
    scores: Floats
    pixels: Integers
    """(m,)."""
    void: Integers
    """(m,): how many of them lie where nothing is evaluated."""
    common: Integers
    """(m, n)."""
    truth_labels: Integers
    truth_pixels: Integers
    truth_groups: Flags
    """(n,): is it a group of objects that are not labelled one by one."""


def measure_overlaps(values: Values, masks: npt.NDArray[np.bool_], labels: Integers, scores: Floats) -> Overlaps:
    """Compare predicted masks (m, H, W) with an instance image (H, W); those without a pixel are left out."""
    found = np.array([value for value in np.unique(values) if label_of(int(value)) in THINGS], np.int64)
    place = np.full(int(values.max()) + 1, len(found))
    place[found] = np.arange(len(found))
    of_pixel = np.where(find_void(values), len(found) + 1, place[values])
    counts = np.stack([np.bincount(of_pixel[mask], minlength=len(found) + 2) for mask in masks]) if len(masks) else None
    common = np.zeros((0, len(found) + 2), np.int64) if counts is None else counts
    pixels = common.sum(1)
    kept = pixels > 0
    return Overlaps(
        labels=labels[kept],
        scores=scores[kept],
        pixels=pixels[kept],
        void=common[kept, -1],
        common=common[kept, : len(found)],
        truth_labels=np.array([1 + THINGS.index(label_of(int(value))) for value in found], np.int64),
        truth_pixels=np.bincount(of_pixel.ravel(), minlength=len(found) + 2)[: len(found)],
        truth_groups=found < PER_CLASS,
    )


def cityscapes_figures(images: Sequence[Overlaps]) -> dict[str, float]:
    """Compute mask_AP and mask_AP50 in percent, and mask_AP of each class, by the benchmark's rule.

    It differs from COCO's: overlaps must exceed the threshold; a mask that fits no object is left out if more of it
    than the threshold lies on void, groups and objects of fewer than 100 pixels; of several masks that fit one object
    the one with the best score is right; the area under the curve is by the trapezoidal rule, without smoothing.
    """
    names = [EVALUATED[label] for label in THINGS]
    table = np.array([[_class_ap(images, 1 + row, float(t)) for t in THRESHOLDS] for row in range(len(names))])
    known = np.isfinite(table).all(1)
    mean = table[known].mean(0) if known.any() else np.zeros(len(THRESHOLDS))
    figures = {"mask_AP": mean.mean(), "mask_AP50": mean[0]}
    figures |= {f"mask_AP/{name}": table[row].mean() for row, name in enumerate(names) if known[row]}
    return {name: 100 * float(value) for name, value in figures.items()}


def _class_ap(images: Sequence[Overlaps], label: int, threshold: float) -> float:
    """Average precision of a class at a threshold; NaN where there is no object of it."""
    right, scores, missed, objects = list[bool](), list[float](), 0, 0
    for image in images:
        mine = image.truth_labels == label
        counted = mine & ~image.truth_groups & (image.truth_pixels >= SMALLEST)
        chosen = np.flatnonzero(image.labels == label)
        common = image.common[chosen]
        union = image.pixels[chosen, None] + image.truth_pixels[None] - common
        fits = (common > threshold * union) & mine
        free = np.ones(len(chosen), bool)
        objects += int(counted.sum())
        for column in np.flatnonzero(counted):
            fitting = np.flatnonzero(fits[:, column] & free)
            if not len(fitting):
                missed += 1
                continue
            free[fitting] = False
            of_fitting = sorted(image.scores[chosen[fitting]].tolist(), reverse=True)
            right += [True] + [False] * (len(fitting) - 1)
            scores += of_fitting
        left_out = mine * (image.truth_groups.astype(int) + (image.truth_pixels < SMALLEST))  # twice where both
        ignored = image.void[chosen] + common @ left_out
        alone = ~fits.any(1) & (ignored <= threshold * image.pixels[chosen])
        scores += image.scores[chosen[alone]].tolist()
        right += [False] * int(alone.sum())
    if not objects:
        return float("nan")
    return area_by_trapezoids(np.array(right, bool), np.array(scores), missed)


def area_by_trapezoids(right: Flags, scores: Floats, missed: int) -> float:
    """Integrate precision over recall, from recall 0 and precision 1, with a point for each distinct score."""
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(right[order])[last]
    precision, recall = hits / (last + 1), hits / (right.sum() + missed)
    return float(np.trapezoid([1.0, *precision], [0.0, *recall]))
