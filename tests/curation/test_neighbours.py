"""The nearest others are those of scikit-learn, whatever the blocks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from moco.curation import neighbours
from moco.curation.neighbours import find_others


@pytest.mark.parametrize("block", [7, 1024])
def test_as_scikit_learn(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Distances of unit vectors are sqrt(2 - 2 similarity); nobody is its own neighbour."""
    monkeypatch.setattr(neighbours, "QUERIES_AT_A_TIME", block)
    z = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    similarity, rows = find_others(z, 5)
    distance, expected = NearestNeighbors(n_neighbors=6).fit(z.numpy()).kneighbors(z.numpy())
    assert np.array_equal(rows.numpy(), expected[:, 1:])
    assert np.allclose(np.sqrt(2 - 2 * similarity.numpy()), distance[:, 1:], atol=1e-4)


def test_twins_and_few_images() -> None:
    """Where all are the same an image is still not its own neighbour; of three images each has two others."""
    _, rows = find_others(torch.ones(3, 2) / 2**0.5, 10)
    assert [sorted(row) for row in rows.tolist()] == [[1, 2], [0, 2], [0, 1]]
