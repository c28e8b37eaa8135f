"""Whitened first filters and what a new head reads, against plain loops and NumPy's decomposition."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moco.core.whitening import LEAST_SHARE, NOISE, PATCHES, RIDGE, views_to_whiten, whiten, whiten_head


def correlated_views(count: int = 12, side: int = 12) -> torch.Tensor:
    """Smooth random views whose channels depend on each other, as those of photographs do."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(count, 3, side + 2, side + 2))
    smooth = sum(noise[:, :, a : a + side, b : b + side] for a in range(3) for b in range(3)) / 3
    mixed = np.einsum("dc,nchw->ndhw", [[1, 0.5, 0.2], [0.4, 1, 0.3], [0.1, 0.6, 1]], smooth)
    return torch.from_numpy(mixed + 0.3).float()


def patches_by_loops(views: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """Every patch that lies within a view, flattened in the order of a convolution's weights."""
    places = range(0, views.shape[-1] - kernel + 1, stride)
    return np.stack([v[:, y : y + kernel, x : x + kernel].ravel() for v in views for y in places for x in places])


@pytest.mark.parametrize(("filters", "kernel", "stride"), [(16, 3, 1), (8, 3, 2), (7, 5, 2), (64, 3, 1)])
def test_filters_are_the_scaled_principal_components_and_their_negatives(
    filters: int, kernel: int, stride: int
) -> None:
    """By NumPy from patches by plain loops; filters beyond twice the patch's dimension stay as they were."""
    views = correlated_views()
    conv = nn.Conv2d(3, filters, kernel, stride, padding=1, bias=False)
    before = conv.weight.detach().clone().numpy()
    whiten(conv, views)

    patches = patches_by_loops(views.numpy().astype(np.float64), kernel, stride)
    variances, vectors = np.linalg.eigh(np.cov(patches.T, bias=True))
    n = min(filters // 2, 3 * kernel * kernel)
    found = conv.weight.detach().numpy().reshape(filters, -1)
    for i in range(n):
        expected = vectors[:, -1 - i] / np.sqrt(variances[-1 - i] + NOISE)
        expected *= np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[n + i], -expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(conv.weight.detach().numpy()[2 * n :], before[2 * n :])


def test_outputs_are_uncorrelated_with_a_variance_of_at_most_one() -> None:
    """The convolution's own outputs on these views, those at the border left out."""
    views, conv = correlated_views(), nn.Conv2d(3, 16, 3, padding=0, bias=False)
    whiten(conv, views)
    outputs = conv(views).detach().transpose(0, 1).flatten(1).double()[:8]
    covariance = np.cov(outputs.numpy(), bias=True)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-4
    assert covariance.diagonal().max() <= 1
    assert covariance.diagonal()[0] > 0.99  # the largest components lie far above the noise


def test_one_flat_colour_gives_finite_filters() -> None:
    """Patches without any variance: nothing to divide by but the noise."""
    conv = nn.Conv2d(3, 8, 3, bias=False)
    whiten(conv, torch.full((4, 3, 8, 8), 0.5))
    assert conv.weight.isfinite().all()


@pytest.mark.parametrize(("side", "stride", "count"), [(16, 1, 1024), (64, 2, 256), (224, 2, 64)])
def test_enough_views_for_the_covariance(side: int, stride: int, count: int) -> None:
    """Few where each has many places."""
    conv = nn.Conv2d(3, 8, 3, stride)
    assert views_to_whiten(conv, side) == count
    assert count * (side // stride) ** 2 >= PATCHES


# --- what a new head reads ------------------------------------------------------------------------------------------


def features_with_a_mean(count: int = 60, width: int = 6) -> torch.Tensor:
    """Features of unequal variances in directions of their own, far from zero."""
    draw = np.random.default_rng(0)
    turned, _ = np.linalg.qr(draw.normal(size=(width, width)))
    return torch.from_numpy(draw.normal(size=(count, width)) * 2.0 ** -np.arange(width) @ turned + 5).float()


def mean_cosine(z: torch.Tensor) -> float:
    """How alike outputs are, over all pairs."""
    return float(F.normalize(z).mean(0).square().sum())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_head_reads_whitened_features(layers: int) -> None:
    """As the same head does with features that NumPy has whitened, but for the mean of its outputs."""
    torch.manual_seed(0)
    head = nn.Linear(6, 4) if layers == 1 else nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    as_drawn, x = copy.deepcopy(head), features_with_a_mean()
    assert whiten_head(head, x)

    centred = x.double().numpy() - x.double().numpy().mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(x))
    along = centred @ directions / np.sqrt(variances + RIDGE * variances.max())
    white = along @ directions.T
    white /= np.sqrt(white.var(0).mean())
    with torch.no_grad():
        expected, found, plain = as_drawn(torch.from_numpy(white).float()), head(x), as_drawn(x)
    torch.testing.assert_close(found, expected - expected.mean(0), rtol=1e-3, atol=1e-4)
    assert abs(mean_cosine(found)) < 0.1
    assert mean_cosine(plain) > 0.9


@pytest.mark.parametrize("head", [nn.Linear(6, 4), nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8))])
def test_heads_that_stay(head: nn.Module) -> None:
    """Too few features, or all equal, tell nothing; and a head that normalises by itself has no bias."""
    before = copy.deepcopy(head.state_dict())
    few = features_with_a_mean(int(LEAST_SHARE * 6) - 1)
    equal = torch.ones(60, 6)
    assert not whiten_head(head, few)
    assert not whiten_head(head, equal)
    if isinstance(head, nn.Sequential):
        assert not whiten_head(head, features_with_a_mean())
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize(("mean", "deviation"), [(1000.0, 1e-4), (5.0, 1e-6), (0.0, 1e-40), (1.0, float("nan"))])
def test_rounding_is_not_whitened(mean: float, deviation: float) -> None:
    """Features of copies of one image differ by rounding: enlarged, it would be all that the head sees."""
    head = nn.Linear(6, 4)
    before = copy.deepcopy(head.state_dict())
    x = mean + deviation * torch.from_numpy(np.random.default_rng(0).normal(size=(60, 6))).float()
    assert not whiten_head(head, x)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
