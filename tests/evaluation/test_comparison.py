"""Encoders are compared by what the neighbours of images say, each image left out of its own vote."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.evaluation import comparison
from moco.evaluation.comparison import judge_pixels, judge_weights, measure_encoding, measure_joining, thin
from moco.evaluation.feature_whitening import choose_whitening, fit_whitening
from moco.evaluation.features import Encoding, encode
from moco.interop.checkpoints import Weights
from moco.runtime.fields import Precision

FP32: Precision = "fp32"


def test_weights_and_pixels_are_judged_on_the_same_images() -> None:
    """By scikit-learn: a tenth of the bank at a time by the others, with a whitening and the k that suit the bank."""
    images = load("digits")["train"]
    bank, queries = Subset(images, np.arange(80)), Subset(images, np.arange(80, 110))
    torch.manual_seed(0)
    weights = Weights(Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=8)), (0.5,) * 3, (0.5,) * 3)
    found = judge_weights(weights, 8, bank, queries, FP32)
    how = Encoding(8, weights.mean, weights.std, unit=False)
    known, asked = (encode(weights.encoder, part, how) for part in (bank, queries))
    assert bank.labels is not None
    assert queries.labels is not None
    chosen = choose_whitening(known, bank.labels, 10)
    assert chosen is not None

    def vote(k: int, rows: npt.NDArray[np.int64], x: Tensor) -> npt.NDArray[np.int64]:
        (whiten,) = fit_whitening(known[rows], (chosen.ridge,))
        judge = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
        assert bank.labels is not None
        return np.asarray(judge.fit(whiten(known[rows]).numpy(), bank.labels[rows]).predict(whiten(x).numpy()))

    by_class = sorted(range(80), key=bank.labels.__getitem__)
    turn = np.array([by_class.index(image) % 10 for image in range(80)])
    right = {}
    for k in (5, 10, 20, 50):
        right[k] = np.zeros(80, bool)
        for fold in range(10):
            own = turn == fold
            right[k][own] = vote(k, np.flatnonzero(~own), known[own]) == bank.labels[own]
    best = max(right, key=lambda k: right[k].sum())
    expected = [*right[best], *(vote(best, np.arange(80), asked) == queries.labels)]
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
