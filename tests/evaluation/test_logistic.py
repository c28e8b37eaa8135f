"""Logistic regression equals scikit-learn's, has no gradient left at its solution, and takes any features."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq, minimize
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from moco.data.images import Labels
from moco.errors import DivergedError
from moco.evaluation import logistic as module
from moco.evaluation.logistic import Classifier, ViewFeatures, pose, solve

CLASSES, WIDTH = 4, 6


def blobs(n: int, seed: int = 0, classes: int = CLASSES, width: int = WIDTH) -> tuple[ViewFeatures, Labels]:
    """Make features (1, n, width) of overlapping classes, with means and deviations that differ."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    raw = (centres[labels] + rng.standard_normal((n, width))) * np.geomspace(0.1, 10, width) + np.arange(width)
    return torch.from_numpy(raw).float()[None], labels


def fitted(features: ViewFeatures, labels: Labels, penalty: float, classes: int = CLASSES) -> Classifier:
    """Fit all of them."""
    problem = pose(features, labels, classes, np.arange(len(labels)))
    return problem.classifier(solve(problem, penalty))


def scaled(features: Tensor) -> Tensor:
    """Scale by the square root of the deviation, so that the mean of the variances is 1; in fp64."""
    x = features.double()
    deviation = x.std(0, correction=0)
    return (x - x.mean(0)) / (deviation * deviation.mean()).sqrt()


# --- the solution ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("classes", [2, 4])
def test_logits_equal_scikit_learn_s(penalty: float, classes: int) -> None:
    """C is 1 / (N penalty); of two classes scikit-learn penalises one vector of weights where there are two."""
    features, labels = blobs(120, classes=classes)
    x, share = scaled(features[0]).numpy(), 2 if classes == 2 else 1
    oracle = LogisticRegression(C=share / (len(labels) * penalty), tol=1e-9, max_iter=10_000).fit(x, labels)
    logits = fitted(features, labels, penalty, classes).logits(features[0])
    found = logits[:, 1] - logits[:, 0] if classes == 2 else logits - logits.mean(1, keepdim=True)
    expected = oracle.decision_function(x)
    expected = expected if classes == 2 else expected - expected.mean(1, keepdims=True)
    assert np.allclose(found.numpy(), expected, atol=2e-3 * np.abs(expected).max())
    assert np.array_equal(logits.argmax(1).numpy(), oracle.predict(x))


@pytest.mark.parametrize("penalty", [1.0, 0.01, 1e-4])
def test_no_gradient_is_left(penalty: float) -> None:
    """By torch's autograd in fp64, on the scaled features."""
    features, labels = blobs(200)
    found = fitted(features, labels, penalty)
    x = scaled(features[0])
    factor = features[0].double().std(0, correction=0)
    weight = (found.weight.double() * (factor * factor.mean()).sqrt()).requires_grad_()
    bias = found.bias.double().requires_grad_()
    loss = F.cross_entropy(F.linear(x, weight, bias), torch.from_numpy(labels)) + penalty / 2 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert float(gradient.abs().max()) < 1e-4


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_a_closed_form(penalty: float) -> None:
    """One feature of 1 for one class and -1 for the other: with w its weight, sigmoid(-2 w) = penalty w."""
    features, labels = torch.tensor([[[3.0], [5.0]] * 10]), np.array([0, 1] * 10)
    expected = brentq(lambda w: 1 / (1 + math.exp(2 * w)) - penalty * w, 0, 100)
    found = fitted(features, labels, penalty, 2)
    assert found.weight[1].item() == pytest.approx(expected, rel=1e-3)
    assert found.weight[0].item() == pytest.approx(-expected, rel=1e-3)
    assert found.bias.tolist() == pytest.approx([0, 0], abs=1e-4)


def test_features_that_say_nothing_give_the_shares_of_the_classes() -> None:
    """Softmax of the biases, which have no penalty."""
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    found = fitted(torch.full((1, 100, WIDTH), 7.0), labels, 1.0, 3)
    assert found.logits(torch.full((1, WIDTH), 7.0)).softmax(1)[0].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=1e-3)


def test_the_start_does_not_matter() -> None:
    """From 0, from the solution of another penalty and from random weights: the same loss is convex."""
    features, labels = blobs(150)
    problem = pose(features, labels, CLASSES, np.arange(150))
    far = torch.randn(CLASSES, WIDTH + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [solve(problem, 0.01, start) for start in (None, solve(problem, 1.0), far)]
    logits = [problem.classifier(weights).logits(features[0]) for weights in found]
    for other in logits[1:]:
        assert torch.allclose((other - logits[0]).softmax(1), torch.full_like(other, 1 / CLASSES), atol=1e-3)


# --- the features ---------------------------------------------------------------------------------------------------


def test_units_do_not_matter() -> None:
    """A shift of each feature, one factor for all of them and the order of the images leave the logits as they are."""
    features, labels = blobs(100)
    expected = fitted(features, labels, 0.01).logits(features[0])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    changed = 1000 * (features + torch.arange(WIDTH))
    assert torch.allclose(fitted(changed, labels, 0.01).logits(changed[0]), expected, atol=0.02)
    shuffled = fitted(features[:, order], labels[order.numpy()], 0.01)
    assert torch.allclose(shuffled.logits(features[0]), expected, atol=0.01)


@pytest.mark.parametrize("value", [0.0, 5.0, 1e4])
def test_a_constant_feature_counts_for_nothing(value: float) -> None:
    """Nor does one that differs by rounding alone; on other images it may be anything."""
    features, labels = blobs(100)
    expected = fitted(features, labels, 0.01).logits(features[0])
    rounding = value * (1 + 1e-7 * torch.randn(1, 100, 1, generator=torch.Generator().manual_seed(0)))
    found = fitted(torch.cat([torch.full((1, 100, 1), value), features, rounding], 2), labels, 0.01)
    anything = torch.cat([torch.full((100, 1), 9e9), features[0], torch.full((100, 1), -9e9)], 1)
    assert torch.allclose(found.logits(anything), expected, atol=0.01)


@pytest.mark.parametrize(("penalty", "error"), [(0.01, 0.02), (1e-4, 0.02), (1e-5, 0.1)])
def test_fewer_images_than_features(penalty: float, error: float) -> None:
    """The loss is separable then, and the penalty keeps the weights finite; equal to scikit-learn's."""
    features, labels = blobs(20, width=50)
    x = scaled(features[0]).numpy().astype(np.float64)
    oracle = LogisticRegression(C=1 / (20 * penalty), tol=1e-12, max_iter=10_000).fit(x, labels)
    logits = fitted(features, labels, penalty).logits(features[0])
    expected = oracle.decision_function(x)
    assert np.allclose(logits - logits.mean(1, keepdim=True), expected - expected.mean(1, keepdims=True), atol=error)


@pytest.mark.parametrize("images", [10, 39, 40, 41])
def test_axes_are_those_in_which_images_differ(images: int) -> None:
    """Ten images differ in nine directions, and no axis is one of rounding; the classifier does not change there."""
    features = torch.randn(1, images, 40, generator=torch.Generator().manual_seed(1)) + 5
    labels = np.arange(images) % 3
    problem = pose(features, labels, 3, np.arange(images))
    assert problem.x.shape == (images, min(images - 1, 40) + 1)
    x = problem.x[:, :-1].double()
    assert torch.allclose(x.T @ x / images, torch.diag(problem.variances[:-1]), atol=1e-5)


def test_classes_of_one_image_and_of_none() -> None:
    """The one is found again among its like; the other is never right."""
    features, labels = blobs(60, classes=2)
    features[0, 0] += 50
    labels[0] = 2
    predicted = fitted(features, labels, 1e-3, 4).logits(features[0]).argmax(1).numpy()
    assert predicted[0] == 2
    assert 3 not in predicted


def test_views_are_further_images() -> None:
    """Features of two views of each image equal those of twice as many images."""
    (first, labels), (second, _) = blobs(50), blobs(50, seed=1)
    views = fitted(torch.cat([first, second]), labels, 0.01)
    images = fitted(torch.cat([first, second], 1), np.tile(labels, 2), 0.01)
    assert torch.allclose(views.logits(first[0]), images.logits(first[0]), atol=1e-3)


def test_only_the_given_rows_are_fitted() -> None:
    """Others may be no numbers."""
    features, labels = blobs(80)
    spoilt, rows = features.clone(), np.arange(0, 80, 2)
    spoilt[:, 1::2] = torch.nan
    problem = pose(spoilt, labels, CLASSES, rows)
    expected = fitted(features[:, ::2], labels[::2], 0.01).logits(features[0])
    assert torch.allclose(problem.classifier(solve(problem, 0.01)).logits(features[0]), expected, atol=1e-3)


def test_parts_of_a_matrix_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are multiplied at a time."""
    features, labels = blobs(50)
    expected = fitted(features, labels, 0.01).logits(features[0])
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 7)
    assert torch.allclose(fitted(features, labels, 0.01).logits(features[0]), expected, atol=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_no_numbers(value: float) -> None:
    """They are refused, and not given a figure."""
    features, labels = blobs(50)
    features[0, 3, 2] = value
    with pytest.raises(DivergedError, match="features are not finite"):
        pose(features, labels, CLASSES, np.arange(50))


def test_what_has_not_converged_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the penalty and the gradient that is left."""
    features, labels = blobs(50)
    monkeypatch.setattr(module, "ITERATIONS", 1)
    with pytest.warns(UserWarning, match=r"penalty 0\.001: not converged after 1 iterations"):
        fitted(features, labels, 0.001)


def test_scipy_has_no_threads_beside_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its BLAS would wait in a loop on the cores of torch's threads; afterwards it has as many as before."""
    found = list[int]()

    def look(*given: Any, **named: Any) -> Any:
        found.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return minimize(*given, **named)

    monkeypatch.setattr(module, "minimize", look)
    features = torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(0))
    with threadpool_limits(2, user_api="blas"):
        solve(pose(features, np.arange(30) % 2, 2, np.arange(30)), 0.1)
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
    assert set(found) == {1}
