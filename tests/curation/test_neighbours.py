"""The nearest others are those of scikit-learn, whatever the blocks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from moco.curation import neighbours
from moco.curation.neighbours import (
    build_index,
    find_nearest,
    find_others,
    needs_index,
    pack_index,
    unpack_index,
)


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


def clustered(count: int) -> torch.Tensor:
    """Features of unit length around 20 centres."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=random)
    return F.normalize(centres[torch.arange(count) % 20] + 0.5 * torch.randn(count, 16, generator=random))


def test_an_index_finds_nearly_what_exact_search_finds() -> None:
    """Its recall is what it says, nobody is its own neighbour, and an index that was packed is the same."""
    pytest.importorskip("faiss")
    z = clustered(2000)
    index = build_index(z, 5)
    similarity, rows = find_others(z, 5, index)
    exact_similarity, exact = find_others(z, 5)
    recall = np.mean([len(np.intersect1d(a, b)) / 5 for a, b in zip(rows.numpy(), exact.numpy(), strict=True)])
    assert recall > 0.95
    assert abs(recall - index.recall) < 0.03
    assert not (rows == torch.arange(2000)[:, None]).any()
    same = rows == exact
    assert torch.allclose(similarity[same], exact_similarity[same], atol=1e-5)
    assert torch.equal(find_nearest(z[:3], z, 4, unpack_index(*pack_index(index)))[1][:, 0], torch.arange(3))
    assert torch.equal(find_others(z, 5, unpack_index(*pack_index(index)))[1], rows)


def test_more_neighbours_than_the_lists_hold() -> None:
    """Are the last one again, and never a row that is none."""
    pytest.importorskip("faiss")
    z = clustered(12)
    _, rows = find_others(z, 11, build_index(z, 11))
    assert 0 <= int(rows.min()) <= int(rows.max()) < 12


def test_an_index_takes_the_place_of_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for many images; without faiss a warning says what would help."""
    monkeypatch.setattr(neighbours, "find_spec", lambda name: None)
    assert not needs_index(100_000)
    with pytest.warns(UserWarning, match=r"momentum-contrast\[search\]"):
        assert not needs_index(100_001)
