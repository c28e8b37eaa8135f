"""Features are judged by images that took no part in their whitening."""

import numpy as np
import pytest
import torch

from moco.evaluation import folds
from moco.evaluation.feature_whitening import choose_whitening
from moco.evaluation.folds import Vote, classify_by_folds, number_folds


@pytest.mark.parametrize(("few", "count"), [(1000, 10), (30, 4)])
def test_folds_have_equal_shares_of_each_class(monkeypatch: pytest.MonkeyPatch, few: int, count: int) -> None:
    """Small banks have ten folds, larger ones four."""
    monkeypatch.setattr(folds, "FEW", few)
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [21, 12, 3]))
    numbers = number_folds(labels)
    assert set(numbers) == set(range(count))
    for label in range(3):
        sizes = np.bincount(numbers[labels == label], minlength=count)
        assert sizes.max() - sizes.min() <= 1


def test_noise_is_not_classified() -> None:
    """Of more numbers than images, a whitening makes what it was fitted to look separable."""
    labels, drawn = np.arange(120) % 2, torch.Generator().manual_seed(3)
    x = torch.randn(120, 400, generator=drawn)
    x[:, :5] *= 30
    x[:, 5] += torch.from_numpy(labels) * 1.5
    queries = torch.randn(400, 400, generator=drawn)
    queries[:, :5] *= 30
    queries[:, 5] += torch.arange(400) % 2 * 1.5
    chosen = choose_whitening(x, labels, 2)
    assert chosen is not None
    assert chosen.top1 is not None
    right = classify_by_folds(x, queries, np.arange(400) % 2, Vote(labels, 2, 0.1)).float()
    said, true = 100 * right[:120].mean(), 100 * right[120:].mean()
    assert abs(said - true) < abs(chosen.top1 - true)


def test_a_single_image_and_classes_of_one() -> None:
    """Nobody votes on the only image of a bank or of a class, and nothing fails."""
    x = torch.eye(4)
    assert classify_by_folds(x[:1], x[:2], np.array([0, 1]), Vote(np.array([0]), 2, 0.1)).tolist() == [
        False, True, False,
    ]  # fmt: skip
    found = classify_by_folds(x, x, np.arange(4), Vote(np.arange(4), 4, 0.1))
    assert found[:4].tolist() == [False] * 4
