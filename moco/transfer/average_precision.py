"""PASCAL VOC's average precision of boxes."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from moco.transfer.objects import Flags, Floats, Integers

ApRule = Literal["11-point", "area"]
"""How average precision is read off a curve: VOC2007's eleven points, or the area under it (VOC2010 and later)."""
THRESHOLDS = np.arange(50, 100, 5) / 100
"""Overlaps from which on a box is right; AP is the mean over them, AP50 and AP75 are of one."""


def voc_figures(
    truths: Sequence[tuple[Floats, Integers, Flags]],
    found: Sequence[tuple[Floats, Integers, Floats]],
    classes: tuple[str, ...],
    rule: ApRule,
) -> dict[str, float]:
    """Compute AP50, AP and AP75 in percent, and AP50 of each class, over images.

    `truths` are boxes (n, 4), labels (n,) and difficult (n,) of each image, `found` boxes (m, 4), labels and scores.
    A difficult object counts neither as found nor as missed, and what finds it is left out. A class without any other
    object has no figure. Scores are compared as they are: detectron2 first rounds them to three decimals, boxes to one.
    """
    table = np.full((len(classes), len(THRESHOLDS)), np.nan)
    for row in range(len(classes)):
        objects = sum(int(((labels == row + 1) & ~difficult).sum()) for _, labels, difficult in truths)
        if not objects:
            continue
        score, overlap, best, ignored = _matches(truths, found, row + 1)
        for column, threshold in enumerate(THRESHOLDS):
            right, counted = _judge(overlap > threshold, best, ignored, score)
            table[row, column] = average_precision(right[counted], objects, rule)
    means = np.nanmean(table, axis=0) if np.isfinite(table).any() else np.zeros(len(THRESHOLDS))
    figures = {"AP50": means[0], "AP": means.mean(), "AP75": means[5]}
    figures |= {f"AP50/{name}": table[row, 0] for row, name in enumerate(classes) if np.isfinite(table[row, 0])}
    return {name: 100 * float(value) for name, value in figures.items()}


def average_precision(right: Flags, objects: int, rule: ApRule) -> float:
    """Average precision of detections in the order of falling scores, `right` or not, of so many objects.

    11-point: the mean over recalls 0, 0.1, ... 1 of the best precision at that recall or beyond. area: the area under
    the precision made to fall with recall.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "11-point":
        reached = [np.flatnonzero(10 * hits >= tenths * objects) for tenths in range(11)]
        return float(sum(best_beyond[place[0]] for place in reached if len(place))) / 11
    return float(best_beyond[right].sum()) / objects


def _matches(
    truths: Sequence[tuple[Floats, Integers, Flags]], found: Sequence[tuple[Floats, Integers, Floats]], label: int
) -> tuple[Floats, Floats, Integers, Flags]:
    """List score, largest overlap, its object and whether that is difficult, by falling score, for one class."""
    scores, overlaps, objects, ignored, before = (
        [np.zeros(0)],
        [np.zeros(0)],
        [np.zeros(0, int)],
        [np.zeros(0, bool)],
        0,
    )
    for (boxes, labels, difficult), (candidates, candidate_labels, candidate_scores) in zip(truths, found, strict=True):
        mine, chosen = labels == label, candidate_labels == label
        if chosen.any():
            overlap = box_overlaps(candidates[chosen], boxes[mine])
            best = overlap.argmax(1) if mine.any() else np.zeros(int(chosen.sum()), int)
            scores.append(candidate_scores[chosen])
            overlaps.append(overlap.max(1, initial=0))
            objects.append(before + best)
            ignored.append(difficult[mine][best] if mine.any() else np.zeros(len(best), bool))
        before += int(mine.sum())
    order = np.argsort(-np.concatenate(scores), kind="stable")
    score, overlap, best, difficult = (np.concatenate(parts)[order] for parts in (scores, overlaps, objects, ignored))
    return score, overlap, best, difficult


def _judge(overlapping: Flags, best: Integers, ignored: Flags, score: Floats) -> tuple[Flags, Flags]:
    """Which detections are right, the first of each object, and which count at all."""
    counted = ~(overlapping & ignored)
    candidates = np.flatnonzero(overlapping & counted)
    right = np.zeros(len(score), bool)
    right[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
    return right, counted


def box_overlaps(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Floats:
    """Compute intersection over union (m, n) of boxes (m, 4) and (n, 4); 0 if both are empty."""
    found = box_iou(*(torch.from_numpy(boxes.astype(np.float64)) for boxes in (first, second)))
    return np.asarray(found.nan_to_num(0.0).numpy())
