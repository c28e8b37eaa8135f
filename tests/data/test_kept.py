"""Prepared images are kept in memory: decoded once, the same bits, and no more bytes than are allowed."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn

from moco.commands.pretrain import build_monitor
from moco.core.encoder import Encoder, EncoderPlan
from moco.data import images as images_module
from moco.data.catalog import load
from moco.data.decoding import decode
from moco.data.images import ArrayImages, FileImages, Images
from moco.data.kept import KeptImages, keep_prepared
from moco.evaluation.features import Encoding, outputs
from moco.pretraining.recipes import recipe

HOW = Encoding(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), batch_size=5)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A dozen JPEG files of two classes and several sizes."""
    rng = np.random.default_rng(0)
    for i in range(12):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (30 + i, 40 - i, 3), dtype=np.uint8)
        PillowImage.fromarray(pixels).save(tmp_path / "ab"[i % 2] / f"{i:02}.jpg")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The files that were decoded, in order."""
    files = list[Any]()

    def noting(path: Any, white_level: int) -> Tensor:
        files.append(path)
        return decode(path, white_level)

    monkeypatch.setattr(images_module, "decode", noting)
    return files


def look(images: Images, how: Encoding = HOW) -> Tensor:
    """Features by the smallest of networks."""
    torch.manual_seed(0)
    return outputs(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8)), 8, images, how)


@pytest.mark.parametrize("size", [16, 80])  # the whole picture, and its centre
def test_features_are_the_same_and_files_are_decoded_once(photographs: Path, decoded: list[Any], size: int) -> None:
    """At the first encoding and at later ones; at another size they are prepared anew."""
    images, how = load(str(photographs))["train"], dataclasses.replace(HOW, image_size=size)
    expected = look(images, how)
    decoded.clear()
    kept = KeptImages(images)
    for _ in range(3):
        assert torch.equal(look(kept, how), expected)
    assert len(decoded) == len(set(decoded)) == 12
    assert torch.equal(look(kept), look(images))


def test_no_more_is_kept_than_is_allowed(photographs: Path, decoded: list[Any]) -> None:
    """What comes first stays; the others are decoded at every look."""
    images = load(str(photographs))["train"]
    kept = KeptImages(images, limit=5 * 3 * 16 * 16 * 4 + 1)
    first = look(kept)
    assert len(decoded) == 12
    assert torch.equal(look(kept), first)
    assert len(decoded) == 12 + 7
    assert sum(square.untyped_storage().nbytes() for square in kept._squares.values()) == 5 * 3 * 16 * 16 * 4


def keep_it(image: Tensor, size: int) -> Tensor:
    """Make nothing of an image."""
    return image


def test_a_monitor_leaves_a_gpu_to_the_training(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together its batches take a quarter of what is free, and not each a quarter of what the others left."""
    kept, taken = KeptImages(load(str(photographs))["train"]), 0
    monkeypatch.setattr("moco.data.kept.free_memory", lambda device: 3000 - taken)
    for start in range(100):
        batch = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
        kept.keep_on_device(range(start, start + 1), 8, keep_it, "cuda", batch)
        taken += batch.nbytes * (kept.on_device(range(start, start + 1), 8, keep_it, "cuda") is not None)
    assert taken == 750


def test_images_in_memory_need_not_be_kept(photographs: Path) -> None:
    """They are there already."""
    held = ArrayImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert keep_prepared(held) is held
    assert isinstance(keep_prepared(load(str(photographs))["train"]), KeptImages)


@pytest.mark.parametrize("flat", [False, True], ids=["labels", "no labels"])
def test_a_monitor_decodes_once(photographs: Path, decoded: list[Any], flat: bool) -> None:
    """With labels or without, a second look has the same figures and opens no file."""
    if flat:
        for path in photographs.glob("*/*.jpg"):
            path.rename(photographs / path.name)
    splits = load(str(photographs))
    assert isinstance(splits["train"], FileImages)
    config = recipe("quick", data=str(photographs), out=photographs / "run", image_size=16, device="cpu")
    torch.manual_seed(0)
    monitor, encoder = build_monitor(config, splits), Encoder(EncoderPlan("resnet10-w16", image_size=16))
    first, opened = monitor(encoder), len(decoded)
    assert opened >= 12
    assert monitor(encoder) == first
    assert len(decoded) == opened


def test_it_is_a_set_of_images(photographs: Path) -> None:
    """As the protocol says."""
    assert isinstance(KeptImages(load(str(photographs))["train"]), Images)
