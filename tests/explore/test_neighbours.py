"""Neighbours against a plain sort."""

import numpy as np
import pytest

from moco.explore.neighbours import find_neighbours
from tests.explore.explored import features


@pytest.mark.parametrize("count", [1, 3, 70, 1000, 5003])
@pytest.mark.parametrize("parts", [128, 65536])
def test_neighbours_are_those_of_a_plain_sort(count: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same similarities in the same order, whatever the parts; no image comes twice."""
    monkeypatch.setattr("moco.evaluation.knn.BANK_AT_A_TIME", parts)
    z = (np.round(features(count) * 4) / 4).astype(np.float32)  # many are equal
    queries = np.concatenate([z[: min(count, 9)], features(3, seed=5)])
    rows, similarity = find_neighbours(z, queries, 25)
    for query, own, values in zip(queries, rows, similarity, strict=True):
        expected = z.astype(np.float64) @ query.astype(np.float64)
        order = np.argsort(-expected, kind="stable")[:25]
        assert values == pytest.approx(expected[order], abs=1e-6)
        assert expected[own] == pytest.approx(expected[order], abs=1e-6)
        assert len(set(own.tolist())) == len(own) == min(25, count)
