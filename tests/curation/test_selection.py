"""Choices of what to label, against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moco.curation.selection import choose_random, choose_spread, choose_typical, mean_gap


def unit(count: int, seed: int = 0) -> torch.Tensor:
    """Random features of unit length."""
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("labelled", [[], [3, 17]])
def test_spread_by_loops(labelled: list[int]) -> None:
    """Each is the farthest from all before it; the first, where none is labelled, is nearest to the mean."""
    z = unit(40)
    points, mean = z.tolist(), z.mean(0).tolist()

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    have, expected = list(labelled), list[int]()
    while len(expected) < 8:
        if not have:
            best = max(range(40), key=lambda i: dot(points[i], mean))
        else:
            best = min(
                (i for i in range(40) if i not in have), key=lambda i: max(dot(points[i], points[j]) for j in have)
            )
        have.append(best)
        expected.append(best)
    assert choose_spread(z, 8, labelled) == expected


def test_spread_takes_everything_once() -> None:
    """Also of images that are all the same."""
    assert sorted(choose_spread(torch.ones(5, 1), 9, [2])) == [0, 1, 3, 4]


def test_typical_by_loops() -> None:
    """The largest cluster without a label comes first, its densest image first; a cluster of five comes last."""
    z, clusters = unit(40), np.array([0] * 16 + [1] * 12 + [2] * 5 + [3] * 7)

    def best(cluster: int, without: list[int]) -> int:
        rows = [i for i in range(40) if clusters[i] == cluster]

        def mean(i: int) -> float:
            near = sorted(float((z[i] - z[j]).norm()) for j in rows if j != i)[:20]
            return sum(near) / len(near)

        return min((i for i in rows if i not in without), key=mean)

    first, second, third = best(1, []), best(3, []), best(0, [4])
    assert choose_typical(z, clusters, 3, labelled=[4]) == [first, second, third]
    assert choose_typical(z, clusters, 4, labelled=[4])[3] == best(1, [first])
    assert sorted(choose_typical(z, clusters, 99, labelled=[4])) == [i for i in range(40) if i != 4]


def test_random_is_a_draw_by_seed() -> None:
    """Without the labelled ones, and another for each seed."""
    chosen = choose_random(20, 5, 0, [1, 2])
    assert chosen == choose_random(20, 5, 0, [1, 2]) != choose_random(20, 5, 1, [1, 2])
    assert len(set(chosen) - {1, 2}) == 5


def test_mean_gap() -> None:
    """Of two opposite directions one chosen leaves half at a distance of 2."""
    assert mean_gap(torch.tensor([[1.0], [-1.0]]), [0]) == 1
    assert np.isnan(mean_gap(torch.ones(2, 1), []))
