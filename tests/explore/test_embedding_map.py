"""Maps of features: neighbours stay together, within the time there is, twice the same."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import make_blobs
from sklearn.manifold import trustworthiness

from moco.explore import embedding_map
from moco.explore.embedding_map import flat_map, principal_components


def test_a_map_keeps_neighbours_together() -> None:
    """Five clusters of 64 dimensions: neighbours stay so (scikit-learn's trustworthiness), twice the same."""
    z, _ = make_blobs(150, 64, centers=5, cluster_std=1.0, random_state=0)
    places, method = flat_map(z, 60.0)
    assert places.shape == (150, 2)
    assert "t-SNE, 750 steps" in method
    assert trustworthiness(z, places) > 0.9
    assert (flat_map(z, 60.0)[0] == places).all()


def test_a_map_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No third stage begins that would take too long; after the first alone large maps are a line."""
    monkeypatch.setattr(embedding_map, "STEPS", 250)
    z, _ = make_blobs(60, 8, centers=2, random_state=0)
    assert "t-SNE, 500 steps" in flat_map(z, 1e-9)[1]


@pytest.mark.parametrize(
    "z", [np.zeros((60, 8)), np.ones((3, 8)), np.zeros((1, 4)), np.eye(2)], ids=lambda z: str(z.shape)
)
def test_a_map_of_next_to_nothing(z: npt.NDArray[np.float64]) -> None:
    """Collapsed features and very few images have a place too."""
    places = flat_map(z, 10.0)[0]
    assert places.shape == (len(z), 2)
    assert np.isfinite(places).all()


@pytest.mark.parametrize(("seconds", "trust"), [(1e-9, 0.7), (600.0, 0.95)])
def test_a_map_of_many_starts_from_some(monkeypatch: pytest.MonkeyPatch, seconds: float, trust: float) -> None:
    """Neighbours stay together, whether there is time for all images or only for the first ones; twice the same."""
    monkeypatch.setattr(embedding_map, "LARGEST_DIRECT", 200)
    monkeypatch.setattr(embedding_map, "LANDMARKS", 100)
    monkeypatch.setattr(embedding_map, "STAGES", 1)
    z, _ = make_blobs(300, 32, centers=6, cluster_std=1.0, random_state=0)
    places, method = flat_map(z, seconds)
    assert ("of 100 images" in method) is True
    assert ("of all 300" in method) is (seconds > 1)
    assert trustworthiness(z, places) > trust  # 0.5 by chance
    assert (flat_map(z, seconds)[0] == places).all()


@pytest.mark.parametrize("shape", [(200, 6), (20, 50)])
def test_principal_components(shape: tuple[int, int]) -> None:
    """Uncorrelated columns whose variances are the largest eigenvalues of the covariance."""
    z = np.random.default_rng(0).normal(size=shape) * np.linspace(5, 1, shape[1])
    scores = principal_components(z, 3)
    largest = np.sort(np.linalg.eigvalsh(np.cov(z.T)))[::-1][:3]
    assert np.cov(scores.T) == pytest.approx(np.diag(largest), abs=1e-9)


def test_principal_components_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of some rows, spread evenly, on which all are projected."""
    monkeypatch.setattr(embedding_map, "MOST_FITTED", 50)
    z = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32) * np.linspace(5, 1, 6, dtype=np.float32)
    some = z[np.linspace(0, 119, 50).astype(int)].astype(float)
    directions = np.linalg.svd(some - some.mean(0))[2][:3]
    assert np.abs(principal_components(z, 3)) == pytest.approx(np.abs((z - some.mean(0)) @ directions.T), abs=1e-5)
