"""Encoders are compared by what the neighbours of images say, each image left out of its own vote."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.evaluation import comparison
from moco.evaluation.comparison import judge_pixels, judge_weights, measure_encoding, measure_joining, thin
from moco.evaluation.feature_whitening import choose_whitening
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import choose_k
from moco.interop.checkpoints import Weights
from moco.runtime.fields import Precision

FP32: Precision = "fp32"


def test_weights_and_pixels_are_judged_on_the_same_images() -> None:
    """By scikit-learn, each image of the bank left out in turn, with the whitening and the k that suit the bank."""
    images = load("digits")["train"]
    bank, queries = Subset(images, np.arange(80)), Subset(images, np.arange(80, 110))
    torch.manual_seed(0)
    weights = Weights(Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=8)), (0.5,) * 3, (0.5,) * 3)
    found = judge_weights(weights, 8, bank, queries, FP32)
    how = Encoding(8, weights.mean, weights.std, unit=False)
    plain = [encode(weights.encoder, part, how) for part in (bank, queries)]
    assert bank.labels is not None
    whitening = choose_whitening(plain[0], bank.labels, 10)
    assert whitening is not None
    known, asked = (F.normalize(whitening(z)).numpy() for z in plain)
    k = choose_k(torch.from_numpy(known), bank.labels, temperature=0.1, classes=10)
    assert queries.labels is not None

    def vote(rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", x: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
             truth: int) -> bool:  # fmt: skip
        judge = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
        assert bank.labels is not None
        return bool(judge.fit(known[rows], bank.labels[rows]).predict(x)[0] == truth)

    everyone = np.arange(80)
    expected = [vote(np.delete(everyone, i), known[[i]], int(bank.labels[i])) for i in range(80)]
    expected += [vote(everyone, asked[[i]], int(queries.labels[i])) for i in range(30)]
    assert (found != torch.tensor(expected)).sum() <= 1  # a tie may fall either way
    pixels = judge_pixels(bank, queries)
    assert len(pixels) == len(found) == 110
    assert float(pixels.float().mean()) > 0.5
    assert measure_encoding(dataclasses.replace(weights), queries, 8, FP32) > 0


def test_what_joining_gains_is_what_the_neighbours_of_both_find_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a plain loop over every second image: the mean of both similarities votes. Too few images to whiten by."""
    bank = Subset(load("digits")["train"], np.arange(40))
    assert bank.labels is not None
    own = bank.labels[::2]
    torch.manual_seed(0)
    means = torch.randn(10, 300)[torch.from_numpy(bank.labels)]
    known, other = (torch.randn(40, 300) + share * means for share in (0.2, 0.3))
    monkeypatch.setattr(comparison, "JOINED_BY", 20)
    found = measure_joining(thin(known), thin(other), bank)

    def count_right(similarity: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", k: int) -> int:
        right = 0
        for row in range(20):
            nearest = [one for one in np.argsort(-similarity[row]) if one != row][:k]
            votes = np.zeros(10)
            for one in nearest:
                votes[own[one]] += np.exp(similarity[row, one] / 0.1)
            right += votes.argmax() == own[row]
        return right

    first, second = (F.normalize(z[::2]) @ F.normalize(z[::2]).T for z in (known, other))
    alone, both = (
        max(count_right(similarity.numpy(), k) for k in (1, 3, 5, 10)) for similarity in (first, (first + second) / 2)
    )
    assert found == pytest.approx(5 * (both - alone))
    assert both > alone
