"""VOC's average precision against its rules in plain loops, and closed forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.errors import BadInputError, DivergedError
from moco.transfer.average_precision import ApRule, average_precision, box_overlaps
from moco.transfer.examples import open_examples
from moco.transfer.scores import score_predictions
from tests.transfer.layouts import guesses, voc_xml, write_voc
from tests.transfer.scenes import write


def overlap_by_loops(a: Any, b: Any) -> float:
    """Intersection over union of two boxes, with VOC's pixels that are counted from 1 and included."""
    width = min(a[2], b[2]) - max(a[0] + 1, b[0] + 1) + 1
    height = min(a[3], b[3]) - max(a[1] + 1, b[1] + 1) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - (box[0] + 1) + 1) * (box[3] - (box[1] + 1) + 1) for box in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def voc_by_loops(targets: list[Any], predicted: list[Any], label: int, threshold: float, rule: ApRule) -> float:
    """The devkit's evaluation of one class, step by step."""
    found = [
        (-float(score), image, box.double().tolist())
        for image, guess in enumerate(predicted)
        for box, of, score in zip(guess["boxes"], guess["labels"], guess["scores"], strict=True)
        if of == label
    ]
    objects = sum(int(((t["labels"] == label) & ~t["ignore"]).sum()) for t in targets)
    taken, right, wrong, curve = set[tuple[int, int]](), 0, 0, list[tuple[float, float]]()
    for _, image, box in sorted(found, key=lambda entry: entry[0]):
        best, place = 0.0, -1
        for number, true in enumerate(targets[image]["boxes"].double().tolist()):
            if targets[image]["labels"][number] == label and overlap_by_loops(box, true) > best:
                best, place = overlap_by_loops(box, true), number
        if best > threshold:
            if targets[image]["ignore"][place]:
                continue
            right, wrong = (right, wrong + 1) if (image, place) in taken else (right + 1, wrong)
            taken.add((image, place))
        else:
            wrong += 1
        curve.append((right / objects, right / (right + wrong)))
    if rule == "11-point":
        return sum(max((p for r, p in curve if r >= k / 10 - 1e-12), default=0.0) for k in range(11)) / 11
    area, last = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - last) * max(p for r, p in curve if r >= recall)
        last = recall
    return area


@pytest.mark.parametrize("rule", ["11-point", "area"])
def test_as_the_devkit(tmp_path: Path, rule: ApRule) -> None:
    """Scenes of shapes, every seventh of them difficult: each class at two overlaps."""
    examples = open_examples("voc", write("voc", tmp_path, count=12), "test")
    examples.annotations.ignore[::7] = True  # type: ignore[attr-defined]
    targets = [examples.target(index) for index in range(len(examples))]
    predicted = [guesses(target, 3, seed, noise=1.5) for seed, target in enumerate(targets)]
    found = score_predictions(examples, predicted, rule)
    at = {t: [100 * voc_by_loops(targets, predicted, label, t, rule) for label in (1, 2, 3)] for t in (0.5, 0.75)}
    assert [found[f"AP50/{name}"] for name in examples.classes] == pytest.approx(at[0.5], abs=1e-9)
    assert found["AP50"] == pytest.approx(np.mean(at[0.5]), abs=1e-9)
    assert found["AP75"] == pytest.approx(np.mean(at[0.75]), abs=1e-9)
    assert 0 < found["AP75"] < found["AP50"] < 100


def test_closed_forms() -> None:
    """Right, wrong, right, of four objects: precision 1 to recall 1/4, 2/3 to 1/2, then none."""
    right = np.array([True, False, True])
    assert average_precision(right, 4, "area") == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(right, 4, "11-point") == pytest.approx((3 + 3 * 2 / 3) / 11)  # 0, .1, .2 and .3, .4, .5
    assert average_precision(np.ones(10, bool), 10, "11-point") == pytest.approx(1)  # 0.3 is reached by 3 of 10
    assert average_precision(np.zeros(0, bool), 4, "area") == 0
    first, second = np.array([[0.0, 0, 2, 2], [5, 5, 5, 5]]), np.array([[1.0, 1, 3, 3], [5, 5, 5, 5]])
    assert box_overlaps(first, second).tolist() == [[pytest.approx(1 / 7), 0], [0, 0]]


def test_difficult_and_absent(tmp_path: Path) -> None:
    """What finds a difficult object is neither right nor wrong; a class of difficult objects only has no figure."""
    boxes = [("cat", 1, 1, 10, 10), ("cat", 21, 1, 30, 10), ("dog", 1, 21, 10, 30)]
    write_voc(tmp_path, {"a": voc_xml(boxes, difficult=(1, 2))}, {"train": ["a"], "test": ["a"]})
    examples = open_examples("voc", tmp_path, "test")
    target = examples.target(0)
    guess = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.tensor([0.1, 0.9, 0.8])}
    assert score_predictions(examples, [guess]) == pytest.approx({"AP50": 100, "AP": 100, "AP75": 100, "AP50/cat": 100})
    with pytest.raises(DivergedError, match="not finite"):
        score_predictions(examples, [guess | {"scores": torch.tensor([0.1, float("nan"), 0.8])}])
    with pytest.raises(BadInputError, match="labels from 1 to 3 predicted, expected 1 to 2"):
        score_predictions(examples, [guess | {"labels": torch.tensor([1, 2, 3])}])
