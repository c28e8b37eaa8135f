"""The monitor: by which k, beside what, and of which images its accuracy is."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference

from moco.commands.pretrain import build_monitor
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.images import Images, Split
from moco.data.splits import monitor_split
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import choose_k
from moco.evaluation.session import labels_of
from moco.pretraining.recipes import recipe
from moco.runtime.fields import require
from tests import oracles

CONFIG = recipe("quick", data="digits", out=Path("run"), image_size=16, device="cpu", precision="fp32")
"""The monitor takes all of the digits, 1,294 in the bank and 143 queries."""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet18-w16", "cifar", image_size=16))


def centred(images: Images) -> Any:
    """Raw pixels of unit length, less their mean, by torchvision and numpy."""
    pixels = torch.stack([images[row] for row in range(len(images))]).float() / 255
    large = reference.resize(pixels, [16, 16], antialias=True).flatten(1).double().numpy()
    large -= large.mean(1, keepdims=True)
    return large / np.linalg.norm(large, axis=1, keepdims=True)


def test_figures_beside_the_accuracy(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The k that is best on its bank, or the one that is given; raw pixels by the same protocol, computed once."""
    splits = load("digits")
    bank, queries = monitor_split(splits)
    config = dataclasses.replace(CONFIG, knn_images=5 * len(queries), knn_k=20)
    monitor = build_monitor(config, {**splits, "val": queries, "train": bank})
    rows = np.linspace(0, len(bank) - 1, 5 * len(queries)).astype(int)
    features = (centred(bank)[rows], labels_of(bank)[rows], centred(queries), labels_of(queries))
    found = monitor(encoder)
    assert (found["knn_k"], found["knn_queries"], found["knn_trained_on"]) == (20, 143, 0)
    assert found["knn_pixels"] == pytest.approx(oracles.weighted_knn(*features, 20, 0.1, 10)[0], abs=1e-3)
    monkeypatch.setattr("moco.evaluation.pixels.RawPixels.forward", None)
    assert monitor(encoder) == found

    monkeypatch.undo()
    chosen = build_monitor(dataclasses.replace(CONFIG, knn_k=None), splits)(encoder)
    how = Encoding(16, require(CONFIG.mean), require(CONFIG.std))
    k = choose_k(encode(encoder, bank, how), labels_of(bank), temperature=0.1, classes=10)
    assert chosen["knn_k"] == k
    assert chosen["knn_top1"] >= build_monitor(dataclasses.replace(CONFIG, knn_k=200), splits)(encoder)["knn_top1"]


@pytest.mark.parametrize(
    ("names", "share"), [(("train",), 100), (("train", "test"), 100), (("train", "val", "test"), 0)]
)
def test_a_tenth_of_train_is_trained_on(encoder: Encoder, names: tuple[Split, ...], share: float) -> None:
    """Also where there is a test split, at which the monitor does not look."""
    digits = load("digits")
    every: dict[Split, Images] = {"train": digits["train"], "val": digits["test"], "test": digits["test"]}
    monitor = build_monitor(dataclasses.replace(CONFIG, knn_images=50), {name: every[name] for name in names})
    assert monitor(encoder)["knn_trained_on"] == share
