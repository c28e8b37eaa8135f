"""Encoders are compared by what the neighbours of images say, each image left out of its own vote."""

import dataclasses

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.evaluation.comparison import judge_pixels, judge_weights, measure_encoding
from moco.evaluation.features import Encoding, encode
from moco.interop.checkpoints import Weights
from moco.runtime.fields import Precision

FP32: Precision = "fp32"


def test_weights_and_pixels_are_judged_on_the_same_images() -> None:
    """By scikit-learn, of which the bank's images are left out one by one; pixels tell digits apart."""
    images = load("digits")["train"]
    bank, queries = Subset(images, np.arange(60)), Subset(images, np.arange(60, 90))
    torch.manual_seed(0)
    weights = Weights(Encoder(EncoderPlan("resnet18-w16", "cifar", image_size=8)), (0.5,) * 3, (0.5,) * 3)
    found = judge_weights(weights, 8, bank, queries, FP32)
    how = Encoding(8, weights.mean, weights.std)
    known, asked = (encode(weights.encoder, part, how).numpy() for part in (bank, queries))
    assert bank.labels is not None
    assert queries.labels is not None

    def vote(rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", x: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
             truth: int) -> bool:  # fmt: skip
        judge = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
        assert bank.labels is not None
        return bool(judge.fit(known[rows], bank.labels[rows]).predict(x)[0] == truth)

    everyone = np.arange(60)
    expected = [vote(np.delete(everyone, i), known[[i]], int(bank.labels[i])) for i in range(60)]
    expected += [vote(everyone, asked[[i]], int(queries.labels[i])) for i in range(30)]
    assert (found != torch.tensor(expected)).sum() <= 1  # a tie may fall either way
    pixels = judge_pixels(bank, queries)
    assert len(pixels) == len(found) == 90
    assert float(pixels.float().mean()) > 0.5
    assert measure_encoding(dataclasses.replace(weights), queries, 8, FP32) > 0
