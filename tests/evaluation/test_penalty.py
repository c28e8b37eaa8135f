"""The penalty is chosen on images that were not fitted, as a plain loop over scikit-learn's classifier would."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from moco.data.images import Labels
from moco.evaluation import penalty as module
from moco.evaluation.config import PENALTIES
from moco.evaluation.penalty import Part, count_before, divide, fit, try_penalties
from tests.evaluation.test_logistic import CLASSES, blobs, scaled

FEW = (1.0, 0.1, 0.01, 0.001)


def test_fifths_of_each_class_are_held_out_in_turn() -> None:
    """Every image once, and of every class a fifth in each part, give or take one image."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 23, 5]))
    centres = torch.arange(78.0)[:, None]
    parts = divide(labels, centres)
    held_out = [part.held_out[:, 0].long().numpy() for part in parts]
    assert sorted(np.concatenate(held_out).tolist()) == list(range(78))
    for part, rows in zip(parts, held_out, strict=True):
        assert sorted([*part.rows.tolist(), *rows.tolist()]) == list(range(78))
        assert np.array_equal(part.truth, labels[rows])
        counts = np.bincount(part.truth, minlength=3)
        assert counts[0] == 10
        assert counts[1] in (4, 5)
        assert counts[2] == 1


def test_of_many_images_a_tenth_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part."""
    monkeypatch.setattr(module, "ENOUGH", 100)
    (part,) = divide(np.arange(100) % 4, torch.arange(100.0)[:, None])
    assert (len(part.rows), len(part.truth)) == (90, 10)
    assert not set(part.rows.tolist()) & set(part.held_out[:, 0].long().tolist())


def test_count_before() -> None:
    """How many of the class come before."""
    assert count_before(np.array([1, 0, 1, 1, 0])).tolist() == [0, 0, 1, 2, 1]


def test_the_path_equals_a_plain_loop_over_scikit_learn() -> None:
    """Cross-validated accuracy and loss of each penalty; the scale of the features is that of the part."""
    features, labels = blobs(150)
    parts = divide(labels, features[0])
    for tried in try_penalties(features, labels, CLASSES, FEW, parts):
        right, loss = 0.0, 0.0
        for part in parts:
            inside = features[0][part.rows]
            both = torch.cat([inside, part.held_out])
            deviation = inside.double().std(0, correction=0)
            x = ((both - inside.double().mean(0)) / (deviation * deviation.mean()).sqrt()).numpy()
            x, y = x[: len(inside)], x[len(inside) :]
            assert np.allclose(x, scaled(inside), atol=1e-6)
            oracle = LogisticRegression(C=1 / (len(x) * tried.penalty), tol=1e-8, max_iter=10_000)
            oracle.fit(x, labels[part.rows])
            right += float((oracle.predict(y) == part.truth).sum())
            loss += log_loss(part.truth, oracle.predict_proba(y), normalize=False)
        assert tried.held_out == pytest.approx(100 * right / 150, abs=0.7)  # an image that lies between two classes
        assert tried.loss == pytest.approx(loss / 150, abs=1e-3)


def test_the_lowest_loss_is_chosen_and_fitted_to_all() -> None:
    """Whatever the order in which the penalties are given."""
    features, labels = blobs(150)
    parts = divide(labels, features[0])
    found = fit(features, labels, CLASSES, FEW[::-1], parts)
    assert [tried.penalty for tried in found.path] == list(FEW[: len(found.path)])
    assert found.penalty == min(found.path, key=lambda tried: tried.loss).penalty
    alone = fit(features, labels, CLASSES, (found.penalty,), parts)
    assert alone.path == []
    assert torch.equal(alone.classifier.weight, found.classifier.weight)


def test_the_path_ends_where_smaller_penalties_are_worse() -> None:
    """Of labels that are drawn at random large penalties are best, and two beyond the best are enough to see it."""
    features, _ = blobs(200)
    labels = np.random.default_rng(1).integers(0, CLASSES, 200)
    path = try_penalties(features, labels, CLASSES, PENALTIES, divide(labels, features[0]))
    losses = [tried.loss for tried in path]
    assert [tried.penalty for tried in path] == list(PENALTIES[: len(path)])
    assert losses.index(min(losses)) == len(path) - 3 < 4


@pytest.mark.parametrize(("penalties", "expected"), [(PENALTIES, 0.01), ((1.0, 0.1), 0.1), ((1e-6, 1e-4), 1e-4)])
def test_with_one_image_for_each_class_nothing_can_be_held_out(penalties: tuple[float, ...], expected: float) -> None:
    """The penalty is the nearest to 0.01."""
    features, labels = blobs(50)
    rows = [int(np.flatnonzero(labels == label)[0]) for label in range(CLASSES)]
    features, labels = features[:, rows], labels[rows]
    found = fit(features, labels, CLASSES, penalties, divide(labels, features[0]))
    assert (found.path, found.penalty) == ([], expected)


def with_a_lone_image(labels: Labels) -> Labels:
    """Make the first image the only one of a further class."""
    return np.concatenate([[CLASSES], labels[1:]])


def test_a_class_that_a_part_lacks_is_left_out_of_its_choice() -> None:
    """The loss stays finite and moderate where the only image of a class is held out."""
    features, labels = blobs(100)
    labels = with_a_lone_image(labels)
    parts = divide(labels, features[0])
    path = try_penalties(features, labels, CLASSES + 1, (0.1,), parts)
    without = [
        Part(part.rows, part.held_out[torch.from_numpy(part.truth < CLASSES)], part.truth[part.truth < CLASSES])
        for part in parts
    ]
    assert path == try_penalties(features, labels, CLASSES + 1, (0.1,), without)
    assert path[0].loss < 2
