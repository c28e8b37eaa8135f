"""mIoU against plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moco.transfer.examples import open_examples
from moco.transfer.scores import Scorer, score_predictions
from tests.transfer.scenes import write


def test_miou_by_loops(tmp_path: Path) -> None:
    """Noise on scenes: each class's true, false and missed pixels counted one by one, void left out."""
    root, rng = write("voc-semantic", tmp_path, count=2), np.random.default_rng(0)
    (root / "classes.txt").write_text("ground\ndisc\nsquare\nbar\nnever\n")
    examples, torch_rng = open_examples("voc-semantic", root, "test"), torch.Generator().manual_seed(0)
    classes = len(examples.classes)
    right, false, missed = ([0] * classes for _ in range(3))
    predicted = []
    for index in range(2):
        truth = examples.target(index)
        guess = torch.where(
            torch.rand(truth.shape, generator=torch_rng) < 0.7, truth, torch.tensor(rng.integers(0, 4, truth.shape))
        )
        guess[guess == 255] = 3
        predicted.append(guess)
        for true, taken in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
            if true == 255:
                continue
            if true == taken:
                right[true] += 1
            else:
                missed[true] += 1
                false[taken] += 1
    each = [100 * r / (r + f + m) for r, f, m in zip(right, false, missed, strict=True) if r + f + m]
    found = score_predictions(examples, predicted)
    assert found["mIoU"] == pytest.approx(sum(each) / len(each))
    assert [found[f"IoU/{name}"] for name in examples.classes[:4]] == pytest.approx(each)
    assert "IoU/never" not in found
    assert found["pixel_accuracy"] == pytest.approx(100 * sum(right) / (sum(right) + sum(missed)))
    parts = [Scorer(examples), Scorer(examples)]
    for index in (0, 1, 0):
        parts[index].add(index, predicted[index])
    parts[1].merge([parts[0].state()])
    assert parts[1].result() == found
