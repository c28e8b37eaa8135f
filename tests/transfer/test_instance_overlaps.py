"""Cityscapes' average precision of masks, against the benchmark's steps in plain loops."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from moco.transfer.average_precision import THRESHOLDS
from moco.transfer.cityscapes import EVALUATED, THINGS
from moco.transfer.examples import open_examples
from moco.transfer.scores import score_predictions
from tests.transfer.test_cityscapes import Values, write_city


def scene(rng: np.random.Generator) -> Values:
    """Ground and void in blocks, before them objects, groups and single caravans, some very small."""
    values = rng.choice([0, 7, 11, 23, 29, 3], (10, 14)).repeat(10, 0).repeat(10, 1)
    for number in range(12):
        (y, x), (h, w) = rng.integers(0, [80, 120]), rng.integers(4, 25, 2)
        label = int(rng.choice([24, 26, 26, 28, 33, 29]))
        values[y : y + h, x : x + w] = label if rng.random() < 0.2 else 1000 * label + number
    return np.asarray(values, np.int64)


def guess(values: Values, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Masks near objects and groups, some of them twice or of a wrong class, and squares anywhere."""
    masks, labels = list[Any](), list[int]()
    for value in np.unique(values):
        label = int(value) // 1000 or int(value)
        for _ in range(int(rng.integers(0, 3)) if label in THINGS else 0):
            masks.append(np.roll(values == value, rng.integers(-2, 3, 2), (0, 1)))
            labels.append(1 + THINGS.index(label) if rng.random() < 0.85 else int(rng.integers(1, 9)))
    for _ in range(4):
        y, x = rng.integers(0, [80, 120])
        square = np.zeros(values.shape, bool)
        square[y : y + 15, x : x + 15] = True
        masks.append(square)
        labels.append(int(rng.choice([1, 3, 5, 8])))
    return {
        "boxes": torch.zeros(len(labels), 4),
        "labels": torch.tensor(labels),
        "scores": torch.tensor(rng.integers(1, 50, len(labels)) / 50).float(),
        "masks": torch.tensor(np.array(masks))[:, None].float(),
    }


def overlap(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())


def by_loops(images: list[Values], predicted: list[dict[str, torch.Tensor]], label: int, threshold: float) -> float:
    """The benchmark's steps for one class at one overlap."""
    outcomes, missed, objects = list[tuple[float, bool]](), 0, 0
    not_evaluated = [label for label in range(34) if label not in EVALUATED]
    for values, one in zip(images, predicted, strict=True):
        masks = [mask[0].bool().numpy() for mask in one["masks"]]
        mine = [row for row, of in enumerate(one["labels"].tolist()) if THINGS[of - 1] == label and masks[row].any()]
        truths = [int(value) for value in np.unique(values) if label in (value, value // 1000)]
        small = {value for value in truths if (values == value).sum() < 100}
        fitting = {value: [row for row in mine if overlap(values == value, masks[row]) > threshold] for value in truths}
        for value in truths:
            if value < 1000 or value in small:
                continue
            objects += 1
            found = sorted((float(one["scores"][row]) for row in fitting[value]), reverse=True)
            missed += not found
            outcomes += [(score, place == 0) for place, score in enumerate(found)]
        for row in mine:
            if any(row in rows for rows in fitting.values()):
                continue
            left_out = int((np.isin(values, not_evaluated) & masks[row]).sum())
            for value in truths:
                left_out += int(((values == value) & masks[row]).sum()) * ((value < 1000) + (value in small))
            if left_out / masks[row].sum() <= threshold:
                outcomes.append((float(one["scores"][row]), False))
    if not objects:
        return float("nan")
    area, before = 0.0, (0.0, 1.0)
    for score in sorted({score for score, _ in outcomes}, reverse=True):
        right = [hit for value, hit in outcomes if value >= score]
        point = (sum(right) / objects, sum(right) / len(right))
        area += (point[0] - before[0]) * (point[1] + before[1]) / 2
        before = point
    return area


def test_as_the_benchmark(tmp_path: Path) -> None:
    """Groups, void, small objects, objects found twice: every class at every overlap."""
    rng = np.random.default_rng(1)
    images = [scene(rng) for _ in range(3)]
    write_city(tmp_path, images)
    predicted = [guess(values, rng) for values in images]
    found = score_predictions(open_examples("cityscapes-instance", tmp_path, "test"), predicted)
    table = np.array([[by_loops(images, predicted, label, t) for t in THRESHOLDS] for label in THINGS])
    assert found["mask_AP"] == pytest.approx(100 * float(np.nanmean(table)))
    assert found["mask_AP50"] == pytest.approx(100 * float(np.nanmean(table[:, 0])))
    assert found["mask_AP/car"] == pytest.approx(100 * float(table[2].mean()))
    assert "mask_AP/train" not in found
    assert 5 < found["mask_AP50"] < 95
