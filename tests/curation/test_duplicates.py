"""Thresholds, groups and what is kept, against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moco.curation import duplicates
from moco.curation.config import KeepRule
from moco.curation.duplicates import calibrate, choose_kept, connect_similar, group_duplicates
from moco.curation.facts import Facts, measure_image
from moco.curation.neighbours import build_index


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random features of unit length."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def facts_of(sizes: list[tuple[int, int]], values: list[int]) -> Facts:
    """Facts of images of one value each."""
    rows = zip(sizes, values, strict=True)
    return Facts.stack([measure_image(torch.full((3, *size), value, dtype=torch.uint8), b"%d" % value)
                        for size, value in rows])  # fmt: skip


@pytest.mark.parametrize("held", [4_000_000, 3])
def test_components_by_loops(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Whatever the blocks are, and where pairs are joined on the way."""
    monkeypatch.setattr(duplicates, "ROWS_AT_A_TIME", 7)
    monkeypatch.setattr(duplicates, "EDGES_HELD", held)
    z = unit(60, 3)
    similar = (z @ z.T >= 0.97).tolist()
    number = list(range(60))
    for _ in range(60):
        for i in range(60):
            for j in range(60):
                if similar[i][j]:
                    number[i] = number[j] = min(number[i], number[j])
    found = connect_similar(z, 0.97).tolist()
    assert len(set(found)) == len(set(number)) < 60
    assert {(a, b) for a, b in zip(found, number, strict=True)} == {(a, number[found.index(a)]) for a in set(found)}


def test_groups_of_the_same_pixels_and_of_near_ones() -> None:
    """Images 1 and 4 are the same, 2 and 5 near; each group begins with its first image."""
    z = unit(6, 64)
    z[4], z[5] = unit(1, 64, seed=1)[0], F.normalize(z[2] + 0.01 * z[0], dim=0)
    facts = facts_of([(8, 8)] * 6, [0, 1, 2, 3, 1, 5])
    assert [group.tolist() for group in group_duplicates(z, facts, 0.99)] == [[1, 4], [2, 5]]


def test_a_chain_keeps_what_is_unlike() -> None:
    """Each picture resembles the next, and the first not the last: two of the five stay, and none is lost."""
    angle = torch.arange(5) * 0.1
    z = torch.stack([angle.cos(), angle.sin()], 1)
    facts = facts_of([(8, 8)] * 5, list(range(5)))
    (group,) = group_duplicates(z, facts, float(np.cos(0.21)))
    members = choose_kept(group, z, facts, float(np.cos(0.21)), "first")
    assert [(member.row, member.instead) for member in members] == [(0, None), (1, 0), (2, 0), (3, None), (4, 3)]
    assert members[1].kind == "near"
    assert members[1].similarity == pytest.approx(np.cos(0.1), abs=1e-6)


@pytest.mark.parametrize(("rule", "kept"), [("largest", 2), ("sharpest", 1), ("first", 0)])
def test_rules(rule: KeepRule, kept: int) -> None:
    """By pixels, by edges, by order."""
    edges = torch.zeros(3, 8, 8, dtype=torch.uint8)
    edges[:, ::2] = 255
    plain, large = torch.full((3, 8, 8), 9, dtype=torch.uint8), torch.full((3, 9, 8), 9, dtype=torch.uint8)
    facts = Facts.stack([measure_image(image, b"") for image in (plain, edges, large)])
    z = torch.ones(3, 1)
    members = choose_kept(np.arange(3), z, facts, 0.9, rule)
    assert [member.row for member in members if member.instead is None] == [kept]


def test_the_kind_of_a_duplicate() -> None:
    """The same file, the same pixels in another file, and neither."""
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    facts = Facts.stack([measure_image(one, content) for one, content in
                         [(image, b"a"), (image, b"a"), (image, b"b"), (image + 1, b"c")]])  # fmt: skip
    members = choose_kept(np.arange(4), torch.ones(4, 1), facts, 0.9, "first")
    assert [member.kind for member in members] == ["", "same bytes", "same pixels", "near"]


def test_the_expected_number_of_false_pairs() -> None:
    """Of independent features on a sphere in 8 dimensions: what is expected of the tail is near what is counted."""
    z = unit(3000, 8)
    views = unit(50, 8, seed=1)
    near = F.normalize(views + 0.5 * unit(50, 8, seed=2))

    def count(threshold: float) -> float:
        return (float((z @ z.T >= threshold).sum()) - len(z)) / 2

    known = calibrate(views, near, z[:800], len(z), false_pairs=40.0, threshold=None)
    assert known.false_pairs == pytest.approx(40, rel=1e-3)
    assert 40 / 2 < count(known.threshold) < 40 * 2
    given = calibrate(views, near, z[:800], len(z), false_pairs=1.0, threshold=0.97)
    assert given.threshold == 0.97
    assert count(0.97) / 2 < given.false_pairs < count(0.97) * 2
    assert given.views_found == pytest.approx(100 * float(((views * near).sum(1) >= 0.97).float().mean()), abs=0.1)


def test_views_bound_the_threshold() -> None:
    """Where different images are far apart, pictures less alike than two views are no duplicates."""
    views = unit(50, 64)
    near = F.normalize(views + 0.1 * unit(50, 64, seed=1))
    known = calibrate(views, near, unit(50, 64, seed=2), 50, false_pairs=1.0, threshold=None)
    assert known.threshold == pytest.approx(float((views * near).sum(1).quantile(0.05)), abs=1e-5)


def test_images_that_are_all_the_same() -> None:
    """The threshold stays below 1, and every pair is taken for a duplicate."""
    z = torch.ones(6, 1)
    known = calibrate(z, z, z, 6, false_pairs=1.0, threshold=None)
    assert known.threshold < 1
    assert len(group_duplicates(z, facts_of([(4, 4)] * 6, list(range(6))), known.threshold)) == 1


def test_an_index_finds_the_same_groups() -> None:
    """Where it looks at all lists."""
    pytest.importorskip("faiss")
    centres = unit(40, 16)
    z = F.normalize(centres[torch.arange(200) % 40] + 0.05 * unit(200, 16, seed=1))
    z[198:] = z[:2]
    facts = facts_of([(4, 4)] * 200, [*range(198), 0, 1])
    index = build_index(z, 5)
    index.faiss.nprobe = index.faiss.nlist
    exact, found = (group_duplicates(z, facts, 0.98, None, own) for own in (None, index))
    assert [group.tolist() for group in found] == [group.tolist() for group in exact]
    assert 20 < len(exact) < 100
