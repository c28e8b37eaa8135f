"""Raw pixels: each picture whole, in 16 x 16, less its own mean, by torchvision's resizing and plain numpy."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from sklearn.datasets import load_sample_images

from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import ArrayImages
from moco.data.kept import KeptImages
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import knn_scores
from moco.evaluation.pixels import build_raw_pixels
from tests import oracles

HOW = Encoding(224, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), output="head", batch_size=3, unit=False)
"""As for an encoder of another size, whose mean and deviation pixels must not take."""


def test_features_are_the_whole_picture_s() -> None:
    """Every colour of every pixel, and twice as bright is another picture only by its contrast."""
    photograph = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)
    pieces = torch.stack(
        [photograph[:, top : top + 90, left : left + 120] for top, left in ((0, 0), (99, 50), (300, 500))]
    )
    encoder, how = build_raw_pixels(HOW, "cpu")
    found = encode(encoder, ArrayImages(pieces), how)
    small = reference.resize(pieces.float() / 255, [16, 16], antialias=True).flatten(1).numpy()
    assert found.shape == (3, 768)
    assert found.numpy() == pytest.approx(small - small.mean(1, keepdims=True), abs=1e-5)
    brighter = ArrayImages((pieces // 2 + 60).to(torch.uint8))
    darker = ArrayImages((pieces // 2 + 10).to(torch.uint8))
    assert encode(encoder, brighter, how).numpy() == pytest.approx(encode(encoder, darker, how).numpy(), abs=1e-5)


def test_their_neighbours_are_those_of_the_pixels() -> None:
    """By the oracle of kNN, on digits of 8 x 8 that are enlarged."""
    train = load("digits")["train"]
    bank, queries = Subset(train, np.arange(0, 150)), Subset(train, np.arange(150, 200))
    assert bank.labels is not None
    assert queries.labels is not None
    features = []
    for part in (bank, queries):
        pixels = torch.stack([part[row] for row in range(len(part))]).float() / 255
        large = reference.resize(pixels, [16, 16], antialias=True).flatten(1).double().numpy()
        centred = large - large.mean(1, keepdims=True)
        features.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))
    top1, top5 = oracles.weighted_knn(features[0], bank.labels, features[1], queries.labels, 5, 0.1, 10)
    encoder, how = build_raw_pixels(HOW, "cpu")
    found, _ = knn_scores(encoder, bank, queries, how, k=5, temperature=0.1)
    assert [found.top1, found.top5] == pytest.approx([top1, top5], abs=1e-3)


def test_a_picture_of_one_colour_has_neighbours_too() -> None:
    """Its features are all 0: no division by their length."""
    pixels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 4, 4)
    images = ArrayImages(pixels, np.arange(6) % 2, ("a", "b"))
    encoder, how = build_raw_pixels(HOW, "cpu")
    assert knn_scores(encoder, images, images, how, k=1, temperature=0.1)[0].top1 == 50


def test_a_monitor_keeps_pixels_apart_from_what_encoders_see() -> None:
    """Of one set the whole images and their centres at the same size are kept both."""
    photograph = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)[None]
    kept = KeptImages(ArrayImages(photograph))
    encoder, how = build_raw_pixels(HOW, "cpu")
    centre = dataclasses.replace(how, whole=False)
    fresh = ArrayImages(photograph)
    for one in (centre, how, centre):
        for feed in (False, True):
            fed = dataclasses.replace(one, feed=feed)
            assert torch.equal(encode(encoder, kept, fed), encode(encoder, fresh, fed))
    assert not torch.allclose(encode(encoder, kept, how), encode(encoder, kept, centre), atol=1e-3)
