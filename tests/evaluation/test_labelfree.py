"""Measures without labels equal plain loops and scikit-learn, and closed forms where these are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from moco.evaluation.labelfree import (
    agree_on_clusters,
    agree_on_neighbours,
    measure_features,
    measure_silhouette,
    retrieve,
    separate,
)


def unit_vectors(n: int, width: int, seed: int) -> Tensor:
    """Random directions."""
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).standard_normal((n, width))).float())


def near(z: Tensor, noise: float, seed: int = 9) -> Tensor:
    """The same directions, disturbed."""
    return F.normalize(z + noise * unit_vectors(z.shape[0], z.shape[1], seed))


def groups(spread: float) -> Tensor:
    """Ten times eight vectors near one of ten axes each."""
    return F.normalize(torch.eye(16)[torch.arange(80) % 10] + spread * unit_vectors(80, 16, 3))


@pytest.mark.parametrize("noise", [0.1, 0.8, 2.0])
def test_retrieval_and_agreement_equal_scikit_learn(noise: float) -> None:
    """The nearest second view of each first one; the ten nearest others among first and among second views.

    Of unit vectors the nearest are the most similar.
    """
    z_1 = unit_vectors(60, 8, 0)
    z_2 = near(z_1, noise)
    nearest = NearestNeighbors(n_neighbors=1).fit(z_2.numpy()).kneighbors(z_1.numpy())[1][:, 0]
    assert retrieve(z_1, z_2) == pytest.approx(100 * float((nearest == np.arange(60)).mean()))
    first, second = (
        NearestNeighbors(n_neighbors=11).fit(z.numpy()).kneighbors(z.numpy())[1][:, 1:] for z in (z_1, z_2)
    )
    shared = [len(set(one) & set(other)) / 10 for one, other in zip(first, second, strict=True)]
    assert agree_on_neighbours(z_1, z_2) == pytest.approx(100 * float(np.mean(shared)))


def test_separation_equals_a_loop() -> None:
    """d': the difference of the means over the pooled standard deviation of cosines."""
    z_1 = unit_vectors(30, 8, 0)
    z_2 = near(z_1, 0.5)
    own, others = list[float](), list[float]()
    for i in range(30):
        for j in range(30):
            (own if i == j else others).append(float(np.dot(z_1[i].double().numpy(), z_2[j].double().numpy())))
    pooled = np.sqrt((np.var(own, ddof=1) + np.var(others, ddof=1)) / 2)
    assert separate(z_1, z_2) == pytest.approx((np.mean(own) - np.mean(others)) / pooled, rel=1e-4)


def test_extremes() -> None:
    """Equal views agree in everything; features that have collapsed say nothing."""
    z = unit_vectors(80, 16, 0)
    assert (retrieve(z, z), agree_on_neighbours(z, z), agree_on_clusters(z, z)) == (100, 100, 1)
    one = F.normalize(torch.ones(80, 16))
    assert separate(one, one) == 0
    with pytest.warns(UserWarning, match="distinct clusters"):
        assert measure_silhouette(one) == 0
    assert agree_on_clusters(groups(0.1), near(groups(0.1), 0.1)) == 1
    assert agree_on_clusters(z, unit_vectors(80, 16, 5)) == pytest.approx(0, abs=0.1)


def test_silhouette_equals_a_loop() -> None:
    """Of ten groups that k-means finds: (b - a) / max(a, b), a to the others of the own group, b to the next one."""
    z = groups(0.5).double().numpy()
    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    truth, values = np.arange(80) % 10, []
    for i in range(80):
        mean = [distance[i, (truth == group) & (np.arange(80) != i)].mean() for group in range(10)]
        own = mean[truth[i]]
        other = min(value for group, value in enumerate(mean) if group != truth[i])
        values.append((other - own) / max(own, other))
    assert measure_silhouette(groups(0.5)) == pytest.approx(float(np.mean(values)), rel=1e-4)


def test_all_measures_are_numbers_of_their_own() -> None:
    """By their names."""
    z = groups(0.5)
    found = measure_features(z, near(z, 0.2), near(z, 0.2, seed=7))
    assert len(found) == 8
    assert all(np.isfinite(list(found.values())))
    assert found["retrieval"] == retrieve(near(z, 0.2), near(z, 0.2, seed=7))
