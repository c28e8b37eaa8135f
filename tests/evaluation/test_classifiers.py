"""All rates in one matrix are what torch's SGD and nn.Linear do one by one, and reach what scikit-learn reaches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.images import Labels
from moco.evaluation.classifiers import Classifiers, Training, first_weights, train_classifiers
from moco.evaluation.config import RATES
from moco.evaluation.features import Encoding, encode

CLASSES, WIDTH = 4, 6


def blobs(n: int, seed: int = 0) -> tuple[Tensor, Labels]:
    """Features (1, n, 6) of four overlapping classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    centres = np.random.default_rng(99).standard_normal((CLASSES, WIDTH))
    return torch.from_numpy(centres[labels] + rng.standard_normal((n, WIDTH))).float()[None], labels


def sgd(features: Tensor, labels: Labels, rate: float, epochs: int) -> nn.Linear:
    """The oracle: full batches by torch's own layers, optimiser and schedule."""
    layer = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(first_weights(WIDTH, CLASSES, 0).T)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 6 // 10, epochs * 8 // 10], gamma=0.1)
    for _ in range(epochs):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(layer(features), torch.from_numpy(labels)))
        optimizer.step()
        schedule.step()
    return layer


def test_full_batches_equal_torch_one_by_one() -> None:
    """Weights of every rate after 20 epochs; sums in another order: 1e-4 of them (at lr 3 they are near 10)."""
    features, labels = blobs(60)
    rates = (0.01, 0.3, 3.0)
    found = train_classifiers(features, labels, CLASSES, Training(rates, epochs=20, batch_size=60))
    for number, rate in enumerate(rates):
        layer = sgd(features[0], labels, rate, 20)
        columns = slice(number * CLASSES, (number + 1) * CLASSES)
        assert torch.allclose(found.weight[:, columns], layer.weight.T, rtol=1e-4, atol=1e-4)
        assert torch.allclose(found.bias[columns], layer.bias, rtol=1e-4, atol=1e-4)
        assert torch.allclose(found.logits(features[0], number), layer(features[0]), rtol=1e-3, atol=1e-3)


def test_rates_do_not_influence_each_other() -> None:
    """Mini-batches: a rate gives the same alone as among others, even beside one that jumps about."""
    features, labels = blobs(100)
    together = train_classifiers(features, labels, CLASSES, Training((0.1, 100.0), epochs=5, batch_size=16))
    alone = train_classifiers(features, labels, CLASSES, Training((0.1,), epochs=5, batch_size=16))
    assert torch.allclose(together.weight[:, :CLASSES], alone.weight, atol=1e-5)


def test_only_the_given_rows_are_trained_on() -> None:
    """Features of others may be anything; the result is that of a set without them, in another order at most."""
    features, labels = blobs(80)
    rows = np.arange(0, 80, 2)
    spoilt = features.clone()
    spoilt[:, 1::2] = torch.nan
    how = Training((0.3,), epochs=10, batch_size=40)
    found = train_classifiers(spoilt, labels, CLASSES, how, rows)
    expected = train_classifiers(features[:, ::2], labels[::2], CLASSES, how)
    assert torch.allclose(found.weight, expected.weight, atol=1e-4)


def test_every_view_is_seen() -> None:
    """Each of three views is drawn for some image: where one is not a number, neither are the weights."""
    features, labels = blobs(50)
    how = Training((0.1,), epochs=1, batch_size=50)
    assert train_classifiers(features.repeat(3, 1, 1), labels, CLASSES, how).weight.isfinite().all()
    for view in range(3):
        spoilt = features.repeat(3, 1, 1)
        spoilt[view] = torch.nan
        assert not train_classifiers(spoilt, labels, CLASSES, how).weight.isfinite().all()


def test_the_same_seed_gives_the_same_weights() -> None:
    """Bit for bit, whatever was drawn before; another seed gives others."""
    features, labels = blobs(50)
    found = []
    for seed in (0, 0, 1):
        torch.rand(3)
        found.append(train_classifiers(features, labels, CLASSES, Training((0.1,), 3, 16, seed)).weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_accuracies_equal_a_plain_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each classifier, however many rows at a time."""
    features, labels = blobs(50)
    weight = torch.from_numpy(np.random.default_rng(3).standard_normal((WIDTH, 2 * CLASSES))).float()
    classifiers = Classifiers(weight, torch.zeros(2 * CLASSES), CLASSES)
    expected = []
    for number in range(2):
        guesses = (features[0].numpy() @ weight.numpy()[:, number * CLASSES : (number + 1) * CLASSES]).argmax(1)
        expected.append(100 * sum(int(a == b) for a, b in zip(guesses, labels, strict=True)) / 50)
    assert classifiers.accuracies(features[0], labels) == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr("moco.evaluation.classifiers.ROWS_AT_A_TIME", 7)
    assert classifiers.accuracies(features[0], labels) == pytest.approx(expected, abs=1e-3)


def test_the_best_rate_reaches_what_scikit_learn_s_logistic_regression_reaches() -> None:
    """The same features of the digits by a random network: the paired 99.9% interval of the difference holds 0.

    A fixed number of points would not do: another machine's rounding moves some images of the 360.
    """
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet18-w16", "cifar", image_size=16))
    splits, how = load("digits"), Encoding(16, (0.5,) * 3, (0.5,) * 3, unit=False)
    train, test = (encode(encoder, splits[name], how) for name in ("train", "test"))
    labels, truth = splits["train"].labels, splits["test"].labels
    assert labels is not None
    assert truth is not None
    found = train_classifiers(train[None], labels, 10, Training(RATES, epochs=60, batch_size=64))
    accuracies = found.accuracies(test, truth)
    best = accuracies.index(max(accuracies))
    ours = found.logits(test, best).argmax(1)
    theirs = LogisticRegression(max_iter=2000, C=100).fit(train.numpy(), labels).predict(test.numpy())
    assert (theirs == truth).mean() > 0.8
    difference = (ours.numpy() == truth).astype(float) - (theirs == truth)
    assert abs(difference.mean()) <= 3.29 * difference.std() / len(truth) ** 0.5


def test_a_classifier_that_diverged_is_never_right() -> None:
    """Of two, one of which has weights that are no numbers; all images are of class 0, which would count for these."""
    features, labels = torch.ones(5, 2), np.zeros(5, np.int64)
    weight = torch.tensor([[1.0, 0.0, math.nan, math.nan]] * 2)
    assert Classifiers(weight, torch.zeros(4), 2).accuracies(features, labels) == [100.0, 0.0]
