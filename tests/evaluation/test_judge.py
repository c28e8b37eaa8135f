"""The judge asks every image by its neighbours, never by itself, and gives the figures of the usual monitor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.evaluation import judge as module
from moco.evaluation.alignment import align_uniform, draw_pairs
from moco.evaluation.feature_whitening import choose_whitening
from moco.evaluation.features import Encoding, encode
from moco.evaluation.judge import KnnJudge, ViewJudge, classify_by_neighbours
from moco.evaluation.knn import choose_k, knn_scores
from moco.evaluation.session import labels_of
from tests import oracles


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bank_size=st.integers(2, 30), k=st.integers(1, 40), classes=st.integers(2, 6))
def test_each_image_is_asked_by_all_others(seed: int, bank_size: int, k: int, classes: int) -> None:
    """As many kNN classifications as there are images, each with the bank that lacks that image."""
    rng = np.random.default_rng(seed)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 5))).float()) for n in (bank_size, 7))
    labels, truth = rng.integers(0, classes, bank_size), rng.integers(0, classes, 7)
    found = classify_by_neighbours(bank, labels, queries, truth, k=k, temperature=0.2, classes=classes)
    expected = []
    for row in range(bank_size):
        rest = np.arange(bank_size) != row
        arrays = (bank.numpy()[rest], labels[rest], bank.numpy()[row : row + 1], labels[row : row + 1])
        expected.append(oracles.weighted_knn(*arrays, k=k, temperature=0.2, classes=classes)[0] == 100)
    for row in range(7):
        arrays = (bank.numpy(), labels, queries.numpy()[row : row + 1], truth[row : row + 1])
        expected.append(oracles.weighted_knn(*arrays, k=k, temperature=0.2, classes=classes)[0] == 100)
    assert found.tolist() == expected


def test_copies_of_an_image_do_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more copies than k, all of one class but one: each has k others, and only the odd one is wrong."""
    monkeypatch.setattr(module, "QUERIES_IN_FLIGHT", 4)
    bank = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    labels = np.array([0] * 8 + [1])
    found = classify_by_neighbours(bank, labels, bank[:1], labels[:1], k=3, temperature=0.1, classes=2)
    assert found.tolist() == [True] * 8 + [False, True]


def test_the_figures_are_the_monitors() -> None:
    """Those that `knn` gives; the images of a look are those of bank and queries."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=8))
    images = load("digits")["train"]
    bank, queries, how = take_evenly(images, 60), take_evenly(images, 25), Encoding(8, (0.5,) * 3, (0.5,) * 3)
    judge = KnnJudge(bank, queries, how, k=7, temperature=0.1, name_figures=lambda found, k: {**found, "k": k})
    figures = judge(encoder)
    expected, k = knn_scores(encoder, bank, queries, how, k=7, temperature=0.1)
    assert figures == {**expected.figures, "k": k}
    features = [encode(encoder, part, how) for part in (bank, queries)]
    classes = len(bank.classes)
    right = classify_by_neighbours(
        features[0], labels_of(bank), features[1], labels_of(queries), k=20, temperature=0.1, classes=classes
    )
    assert torch.equal(judge.right, right)
    assert 0 < int(right.sum()) < len(right) == 85


def test_a_run_that_whitens_is_judged_whitened() -> None:
    """By loops: with the whitening and the k that suit the bank; the monitor's figures stay those of plain features."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=8))
    images = load("digits")["train"]
    bank, queries, how = take_evenly(images, 60), take_evenly(images, 25), Encoding(8, (0.5,) * 3, (0.5,) * 3)
    plain, judge = (
        KnnJudge(bank, queries, how, 7, 0.1, lambda found, k: {**found, "k": k}, whitens=whitens)
        for whitens in (False, True)
    )
    assert judge(encoder) == plain(encoder)
    assert not torch.equal(judge.right, plain.right)
    features = [encode(encoder, part, replace(how, unit=False)) for part in (bank, queries)]
    found = choose_whitening(features[0], labels_of(bank), 10)
    assert found is not None
    z = [F.normalize(found(x)) for x in features]
    k = choose_k(z[0], labels_of(bank), temperature=0.1, classes=10)
    expected = classify_by_neighbours(z[0], labels_of(bank), z[1], labels_of(queries), k=k, temperature=0.1, classes=10)
    assert torch.equal(judge.right, expected)
    assert 100 * float(judge.right[:60].float().mean()) == pytest.approx(found.top1)


def test_views_are_found_among_all_others() -> None:
    """By a plain loop over the features of the two sets of mild views; the figures are those of the other pair."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=8))
    some, how = take_evenly(load("digits")["train"], 30), Encoding(8, (0.5,) * 3, (0.5,) * 3)
    pairs, mild = draw_pairs(some, AUGMENTATIONS["v2"], 8), draw_pairs(some, AUGMENTATIONS["mild"], 8)
    judge = ViewJudge(lambda: pairs, lambda: mild, how)
    figures = judge(encoder)
    first, second = (F.normalize(encode(encoder, one, how), dim=1) for one in mild)
    expected = [max(range(30), key=lambda j: float(first[i] @ second[j])) == i for i in range(30)]
    assert judge.right.tolist() == expected
    assert 0 < sum(expected) < 30
    assert figures["retrieval"] == pytest.approx(100 * sum(expected) / 30, abs=1e-3)
    assert figures["retrieval_images"] == 30
    assert figures.items() >= align_uniform(encoder, pairs, how).items()
