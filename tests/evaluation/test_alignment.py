"""Alignment and uniformity equal the oracles, of features and of images; effective rank equals closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.augment import AUGMENTATIONS, draw, render
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import ArrayImages, Images
from moco.evaluation.alignment import EPOCH, align_uniform, alignment, draw_pairs, effective_rank, uniformity
from moco.evaluation.features import Encoding, encode
from moco.runtime.randomness import Stream
from tests import oracles

HOW = Encoding(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def unit_vectors(n: int, width: int, seed: int) -> Tensor:
    """Random directions."""
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).standard_normal((n, width))).float())


@pytest.mark.parametrize(("n", "width"), [(2, 3), (30, 8), (60, 128)])
def test_both_equal_the_oracles(n: int, width: int) -> None:
    """Sums of fp32 squares of about 1: 1e-5 relative."""
    z_1, z_2 = unit_vectors(n, width, 0), unit_vectors(n, width, 1)
    arrays = z_1.double().numpy(), z_2.double().numpy()
    assert alignment(z_1, z_2) == pytest.approx(oracles.alignment(*arrays), rel=1e-5)
    assert uniformity(z_1) == pytest.approx(oracles.uniformity(arrays[0]), rel=1e-5, abs=1e-6)


def test_extremes() -> None:
    """Equal pairs are aligned, opposite ones at a distance of 2; equal features are not uniform at all."""
    z = unit_vectors(10, 4, 0)
    assert alignment(z, z) == 0
    assert alignment(z, -z) == pytest.approx(4, rel=1e-6)
    assert uniformity(z[:1].expand(5, 4)) == 0
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)  # two points can be opposite
    assert uniformity(unit_vectors(1000, 128, 0)) == pytest.approx(-4, abs=0.1)  # many points: mean distance^2 is 2


def test_effective_rank_of_known_spectra() -> None:
    """All directions alike give C, one direction 1, and r equal singular values r, wherever the vectors lie."""
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(9, 5)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 4))) == pytest.approx(1, abs=1e-5)
    left, right = (np.linalg.qr(np.random.default_rng(seed).standard_normal((20, 6)))[0] for seed in (0, 1))
    for spectrum, expected in [
        ([3, 3, 3, 0, 0, 0], 3),
        ([1, 1, 1, 1, 1, 1], 6),
        ([2, 1, 1, 0, 0, 0], 2**1.5),  # entropy: 1/2 log 2 + 2 x 1/4 log 4 = 3/2 log 2
        ([3, 1, 0, 0, 0, 0], 4 / 3**0.75),  # 3/4 log 4/3 + 1/4 log 4 = log 4 - 3/4 log 3
    ]:
        matrix = left @ np.diag(np.array(spectrum, float)) @ right.T
        assert effective_rank(torch.from_numpy(matrix).float()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "width"), [(5, 40), (200, 16)])
def test_effective_rank_equals_numpy(n: int, width: int) -> None:
    """By the eigenvalues of the Gram matrix, and never above the smaller side."""
    z = unit_vectors(n, width, 0)
    values = np.sqrt(np.clip(np.linalg.eigvalsh(z.double().numpy().T @ z.double().numpy()), 0, None))
    share = values[values > 1e-6] / values.sum()
    expected = np.exp(-np.sum(share * np.log(share)))
    assert effective_rank(z) == pytest.approx(expected, rel=1e-5)
    assert 0.8 * min(n, width) < effective_rank(z) <= min(n, width)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=16))


def digits(count: int) -> Images:
    """Some digits."""
    return Subset(load("digits")["train"], np.arange(count))


def test_of_images_equals_the_oracles(encoder: Encoder) -> None:
    """The features of the query and key views of an epoch that no run reaches, rounded to bytes."""
    images, augmentation, n = digits(24), AUGMENTATIONS["v2"], 24
    sizes, z = np.full((n, 2), 8), []
    for view in (Stream.VIEW_QUERY, Stream.VIEW_KEY):
        parameters = draw(augmentation, sizes, seed=0, epoch=EPOCH, index=range(n), view=view)
        pixels = render([images[i] for i in range(n)], parameters, augmentation, 16)
        z.append(encode(encoder, ArrayImages((pixels * 255).round().to(torch.uint8)), HOW).double().numpy())
    expected = {"alignment": oracles.alignment(*z), "uniformity": oracles.uniformity(z[0])}
    found = align_uniform(encoder, draw_pairs(images, augmentation, 16), HOW)
    assert found == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in expected.items()}
    assert found["alignment"] > 0
    assert found["uniformity"] < 0


def test_the_same_every_time(encoder: Encoder) -> None:
    """A monitor must not wander by itself."""
    first, second = (align_uniform(encoder, draw_pairs(digits(10), AUGMENTATIONS["v1"], 16), HOW) for _ in range(2))
    assert first == second


def test_images_of_different_sizes(encoder: Encoder, tmp_path: Path) -> None:
    """Photographs seldom have one size."""
    for i in range(12):
        PillowImage.new("RGB", (40 - 2 * i, 10 + i), (10 * i,) * 3).save(tmp_path / f"{i:02}.png")
    found = align_uniform(encoder, draw_pairs(load(str(tmp_path))["train"], AUGMENTATIONS["v2"], 16), HOW)
    assert set(found) == {"alignment", "uniformity"}
    assert all(np.isfinite(value) for value in found.values())
