"""Whitened features: the map against closed forms and loops, when it is chosen, and how it travels with weights."""

import dataclasses
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder, EncoderPlan, build_filled_encoder, encoder_tensors
from moco.data.derived import take_evenly
from moco.data.images import ArrayImages
from moco.evaluation import again, feature_whitening
from moco.evaluation.again import encode_networks
from moco.evaluation.feature_whitening import (
    RIDGES,
    FeatureWhitener,
    choose_whitening,
    estimate_choosing,
    fit_whitening,
)
from moco.evaluation.features import Encoding, encode, encode_grids
from moco.evaluation.frozen import load_encoder
from moco.interop.metadata import encoder_metadata
from moco.runtime.checkpoint import save_tensors


def correlated(n: int = 60, width: int = 5, seed: int = 0) -> Tensor:
    """Features of very unequal variances in directions of their own, about a mean that is not zero."""
    draw = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(draw.normal(size=(width, width)))
    scales = 10.0 ** -np.arange(width)
    return torch.from_numpy((draw.normal(size=(n, width)) * scales @ turned + 3).astype(np.float32))


@pytest.mark.parametrize("ridge", [0.1, 0.003])
def test_variances_along_the_principal_directions(ridge: float) -> None:
    """Each variance l becomes l (1 + r) L / (l + r L), L the largest; directions and mean-free axes stay."""
    x = correlated()
    (whitening,) = fit_whitening(x, (ridge,))
    z = whitening(x).double().numpy()
    before, after = (np.cov(y, rowvar=False, bias=True) for y in (x.double().numpy(), z))
    values, directions = np.linalg.eigh(before)
    largest = values[-1]
    expected = values * (1 + ridge) * largest / (values + ridge * largest)
    assert np.abs(z.mean(0)).max() < 1e-5
    assert np.allclose(directions.T @ after @ directions, np.diag(expected), atol=1e-5)
    assert expected[-1] == pytest.approx(largest)  # and stays, whatever the ridge
    assert torch.allclose(whitening.weight, whitening.weight.T)


def test_no_other_square_root_is_nearer_to_the_plain_features() -> None:
    """Turning the whitened features moves them away from the centred ones."""
    x = correlated()
    (whitening,) = fit_whitening(x)
    z, centred = whitening(x), x - x.mean(0)
    turned, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    assert (z - centred).norm() < (z @ turned - centred).norm()


def test_equal_features_are_not_whitened() -> None:
    """There is no direction to enlarge."""
    assert fit_whitening(torch.ones(20, 4)) == []
    assert choose_whitening(torch.ones(20, 4)) is None
    assert choose_whitening(torch.ones(20, 4), np.arange(20) % 2, 2) is None


def test_too_few_images_for_the_covariance() -> None:
    """Half as many images as numbers are needed, and a tenth where labels judge what whitening does."""
    assert choose_whitening(correlated(19, 40)) is None
    assert choose_whitening(correlated(20, 40)) is not None
    labels, drawn = np.arange(40) % 2, torch.Generator().manual_seed(0)
    x = torch.randn(40, 400, generator=drawn) * 0.01
    x[:, :2] = 30 * torch.randn(40, 2, generator=drawn)  # strong, and says nothing of the classes
    x[:, 2] += torch.from_numpy(labels) * 6.0
    assert choose_whitening(x[1:], labels[1:], 2) is None
    for images in (0, 1, 2):
        assert choose_whitening(x[:images], labels[:images], 2) is None
    assert choose_whitening(x, labels, 2) is not None


def test_directions_that_are_left_out() -> None:
    """Of 5 directions the 2 of the largest variances stay, and what they say of similarities."""
    x = correlated()
    (whole,), (part,) = fit_whitening(x), fit_whitening(x, most=2)
    assert part.weight.shape == (2, 5)
    values, directions = np.linalg.eigh(np.cov(x.double().numpy(), rowvar=False, bias=True))
    strongest = torch.from_numpy(directions[:, -2:].astype(np.float32))
    expected = whole(x) @ strongest @ strongest.T
    assert torch.allclose(part(x) @ part(x).T, expected @ expected.T, atol=1e-4)
    assert part(x).var(0, unbiased=False).tolist() == pytest.approx(
        [values[-1], values[-2] * 1.01 * values[-1] / (values[-2] + 0.01 * values[-1])], rel=1e-3
    )


@pytest.mark.parametrize("images", [2, 12, 39])
@pytest.mark.parametrize("twice", [False, True])
def test_more_numbers_than_images(images: int, twice: bool) -> None:
    """Directions in which no two of the images differ are enlarged most: the map is that of the whole covariance."""
    x = torch.randn(images, 80, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, 80)
    x = torch.cat([x, x]) if twice else x
    (found,) = fit_whitening(x)
    expected, bias = whiten_by_covariance(x, found.ridge)
    assert torch.allclose(found.weight, expected, atol=1e-4)
    assert torch.allclose(found.bias, bias, atol=1e-4)


@pytest.mark.parametrize("square", [12, 2048])
def test_more_numbers_than_are_kept(monkeypatch: pytest.MonkeyPatch, square: int) -> None:
    """The directions are found by the similarities of the images: the same as by the covariance."""
    x = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("moco.core.whitening.MOST_SQUARE", square)
    (found,) = fit_whitening(x, most=39)
    weight, bias = whiten_by_covariance(x, found.ridge)
    expected = x @ weight.T + bias
    assert found.weight.shape == (11, 40)  # 12 images differ in 11 directions
    assert torch.allclose(found(x) @ found(x).T, expected @ expected.T, atol=1e-3)


def whiten_by_covariance(x: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The weight and bias of the map that whitens features, by NumPy."""
    values, directions = np.linalg.eigh(np.cov(x.double().numpy(), rowvar=False, bias=True))
    gains = np.sqrt((1 + ridge) * values[-1] / (np.maximum(values, 0) + ridge * values[-1]))
    weight = directions @ np.diag(gains) @ directions.T
    bias = -weight @ x.double().numpy().mean(0)
    return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32))


def cells(n: int = 200) -> tuple[Tensor, np.ndarray]:
    """Features over grids of 1 and 2 x 2 cells of two channels; only where a channel is strong tells the classes."""
    labels, draw = np.arange(n) % 2, torch.Generator().manual_seed(0)
    grid = 0.3 * torch.randn(n, 2, 4, generator=draw)
    grid[torch.arange(n), 0, torch.from_numpy(labels)] += 2.0
    return torch.cat([grid.mean(2), grid.flatten(1)], 1), labels


def test_the_grid_that_separates_classes() -> None:
    """It is chosen with labels, and maps features over all grids as it does those over its own."""
    x, labels = cells()
    found = choose_whitening(x, labels, 2, grids=(1, 2))
    assert found is not None
    assert (found.grid, found.weight.shape, found.top1) == (2, (8, 8), 100.0)
    assert found.plain_top1 is not None
    assert found.plain_top1 < 70
    assert torch.equal(found(x), found(x[:, 2:]))
    assert found.sentence.endswith(", with features of 2x2 parts of each image")


def test_a_grid_that_gains_nothing_is_not_taken() -> None:
    """Its features take more room. Without labels it is taken if the images suffice for the covariance."""
    x, _ = cells(60)
    strong = torch.from_numpy(np.arange(60) % 2) * 3.0
    x[:, 0] += strong
    x[:, 2:6] += strong[:, None]
    x[:, 1] *= 100  # and says nothing
    x[:, 6:] *= 100
    found = choose_whitening(x, np.arange(60) % 2, 2, grids=(1, 2))
    assert found is not None
    assert found.grid == 1
    for images, grid in ((60, 2), (4, 2), (3, 1)):
        blind = choose_whitening(x[:images], grids=(1, 2))
        assert blind is not None
        assert blind.grid == grid


def leave_one_out(z: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Percentage of rows whose k nearest others vote for their class, by loops."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    right = 0
    for row in range(len(z)):
        similarity = z @ z[row]
        similarity[row] = -np.inf
        votes = np.zeros(labels.max() + 1)
        for other in np.argsort(-similarity)[:k]:
            votes[labels[other]] += np.exp(similarity[other] / 0.1)
        right += votes.argmax() == labels[row]
    return 100 * right / len(z)


def hidden_class(n: int = 40) -> tuple[Tensor, np.ndarray]:
    """Two classes that differ in a direction of small variance, beside one of large variance that says nothing."""
    draw = np.random.default_rng(3)
    labels = np.arange(n) % 2
    loud = draw.normal(size=(n, 1)) * 10
    quiet = (2 * labels[:, None] - 1) + draw.normal(size=(n, 1)) * 0.1
    return torch.from_numpy(np.concatenate([loud, quiet, draw.normal(size=(n, 2))], 1).astype(np.float32)), labels


def test_labels_choose_the_ridge() -> None:
    """The whitening with which the most images are right by their neighbours, against loops over all k and ridges."""
    x, labels = hidden_class()
    found = choose_whitening(x, labels, 2)
    assert found is not None
    share = {}
    for one in fit_whitening(x, RIDGES):
        z = one(x).double().numpy()
        share[one.ridge] = max(leave_one_out(z, labels, k) for k in (1, 3, 5, 10, 20))
    plain = max(leave_one_out(x.double().numpy(), labels, k) for k in (1, 3, 5, 10, 20))
    assert share[found.ridge] == max(share.values()) > plain
    assert found.top1 == pytest.approx(max(share.values()))
    assert found.plain_top1 == pytest.approx(plain)


def test_plain_features_are_kept_where_they_do_as_well() -> None:
    """A class that is the direction of the largest variance is seen without."""
    draw, labels = np.random.default_rng(0), np.arange(40) % 2
    loud = 10.0 * (2 * labels[:, None] - 1)
    x = torch.from_numpy(np.concatenate([loud, draw.normal(size=(40, 3))], 1).astype(np.float32))
    assert choose_whitening(x, labels, 2) is None
    assert choose_whitening(x) is not None  # without labels nothing speaks against it


def test_many_features_are_estimated_from_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spread, and their labels with them; what the features are stored as stays."""
    monkeypatch.setattr(feature_whitening, "ROWS", 50)
    x, labels = hidden_class(102)
    found, same = choose_whitening(x, labels, 2), choose_whitening(x[::3], labels[::3], 2)
    assert found is not None
    assert same is not None
    assert found.images == 34
    assert torch.equal(found.weight, same.weight)
    assert found(x.half()).dtype == torch.float16


def tiny(seed: int = 0) -> Encoder:
    """A network with four features."""
    torch.manual_seed(seed)
    return Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=8, feature_dim=3))


def test_an_encoder_whitens_only_what_is_compared(tmp_path: Path) -> None:
    """The features of `backbone` are the affine map of the plain ones; head and file without it stay as they were."""
    encoder = tiny()
    x = torch.rand(70, 3, 8, 8)
    encoder.eval()
    plain, head = encoder.backbone(x), encoder(x)
    (whitening,) = fit_whitening(plain)
    without = {name: tensor.clone() for name, tensor in encoder_tensors(encoder).items()}
    whitening.add_to(encoder)
    expected = (plain.double() - plain.double().mean(0)) @ whitening.weight.double()
    assert torch.allclose(encoder.reading("backbone")(x).double(), expected, atol=1e-4)
    assert torch.equal(encoder.reading("plain")(x), plain)
    assert torch.equal(encoder.reading("head")(x), head)

    tensors = encoder_tensors(encoder)
    assert set(tensors) - set(without) == {"head.whitening.weight", "head.whitening.bias"}
    described = {**encoder_metadata(encoder.plan, (0.5,) * 3, (0.5,) * 3, 1), "kind": "encoder"}
    save_tensors(tmp_path / "encoder.safetensors", tensors, described)
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert torch.equal(loaded(x), encoder.reading("backbone")(x))
    assert isinstance(load_encoder(tmp_path / "encoder.safetensors", features="plain").module, nn.Module)
    again = build_filled_encoder(encoder.plan, without)
    assert not again.whitens


def test_it_is_learned_from_the_images_of_a_run() -> None:
    """From at most so many, spread evenly, with their labels; the encoder is left as it was."""
    pixels = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ArrayImages(pixels)
    encoder, how = tiny(), Encoding(8, (0.5,) * 3, (0.5,) * 3, precision="fp32", unit=True)
    found = FeatureWhitener.build(images, 40, how, 0.1)(encoder)
    (expected,) = fit_whitening(
        encode(encoder, take_evenly(images, 40), Encoding(8, (0.5,) * 3, (0.5,) * 3, unit=False))
    )
    assert found is not None
    assert found.images == 40
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)
    assert encoder.training
    assert not encoder.whitens


@pytest.mark.parametrize("grids", [(1, 2), (3,)])
def test_neighbours_are_read_where_whitening_encoded_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grids: tuple[int, ...]
) -> None:
    """Over whichever grid was chosen, if whitening keeps the features of all images."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    images = ArrayImages(torch.randint(0, 256, (60, 3, 24, 24), dtype=torch.uint8))
    encoder, how = Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=24)), Encoding(24, (0.5,) * 3, (0.5,) * 3)
    found = dataclasses.replace(FeatureWhitener.build(images, 60, how, 0.1), keeps=True)(encoder)
    assert found is not None
    found.add_to(encoder)
    monkeypatch.setattr(again, "encode_grids", Mock(side_effect=AssertionError("encoded again")))
    read = encode_networks(encoder, images, how, grids=grids)
    expected = encode_grids(encoder, images, dataclasses.replace(how, unit=False), grids)
    torch.testing.assert_close(torch.cat(read, 1), expected)


def test_the_time_of_choosing_follows_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 1 + 4 + 9 cells, or of one where the map has no more."""
    monkeypatch.setattr(feature_whitening, "SECONDS_A_NUMBER", 0.5)
    encoder = Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=24))
    assert [estimate_choosing(encoder, size) for size in (24, 8)] == [0.5 * 14 * 32, 0.5 * 32]
