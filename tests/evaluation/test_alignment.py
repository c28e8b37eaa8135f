"""Alignment and uniformity equal the oracles, of features and of images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.augment import AUGMENTATIONS, draw, render
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images, Labels, Subset
from moco.evaluation.alignment import EPOCH, align_uniform, alignment, uniformity
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


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet18-w16", "cifar", image_size=16))


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
    found = align_uniform(encoder, images, augmentation, HOW)
    assert found == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in expected.items()}
    assert found["alignment"] > 0
    assert found["uniformity"] < 0


def test_the_same_every_time(encoder: Encoder) -> None:
    """A monitor must not wander by itself."""
    first, second = (align_uniform(encoder, digits(10), AUGMENTATIONS["v1"], HOW) for _ in range(2))
    assert first == second


def test_images_of_different_sizes(encoder: Encoder) -> None:
    """Photographs seldom have one size."""
    sizes = [(10 + i, 40 - 2 * i) for i in range(12)]

    class Photographs:
        labels: Labels | None = None
        classes: tuple[str, ...] = ()

        def __len__(self) -> int:
            return len(sizes)

        def __getitem__(self, index: int) -> Tensor:
            return torch.full((3, *sizes[index]), 10 * index, dtype=torch.uint8)

        def name(self, index: int) -> str:
            return str(index)

    found = align_uniform(encoder, Photographs(), AUGMENTATIONS["v2"], HOW)
    assert set(found) == {"alignment", "uniformity"}
    assert all(np.isfinite(value) for value in found.values())
