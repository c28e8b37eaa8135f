"""Duplicates among images by their features and digests: a calibrated threshold, groups, and which image to keep."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from moco.curation.config import KeepRule
from moco.curation.facts import Facts
from moco.curation.neighbours import Index
from moco.runtime.progress import show_progress
from moco.shapes import Bank, Features

Rows = npt.NDArray[np.int64]

TAIL, FEWEST_PAIRS = 0.001, 20
"""Share of the most similar pairs of different images that describe the tail, and their minimum number."""
FOUND = 0.95
"""Share of the pairs of views that a threshold need not exceed: below it lie pictures less alike than two views."""
LARGEST_THRESHOLD = 1 - 1e-6
"""Beyond it fp32 no longer tells similarities of the same image from 1."""
ROWS_AT_A_TIME, SIMILARITIES_AT_A_TIME = 256, 1 << 26
"""Images that are compared with all others at a time, and similarities that exist at a time: 0.27 GB."""
EDGES_HELD = 4_000_000
"""Pairs that are held before they are joined."""


@dataclass(frozen=True)
class Calibration:
    """The similarity from which two images count as near duplicates, and how often that is wrong."""

    threshold: float
    views_found: float
    """Percentage of the pairs of views of one image that are at least so similar."""
    false_pairs: float
    """Pairs of different images among all pairs that are expected to be so similar."""
    views_median: float
    others_median: float
    """Median similarity of two views of one image, and of two different images."""


def calibrate(
    first: Features, second: Features, others: Bank, count: int, *, false_pairs: float, threshold: float | None
) -> Calibration:
    """Choose a threshold by the similarities of two views (M, C) of M images, and between different images (M', C).

    Few pairs of different images are as similar as duplicates, so their number is extrapolated: near 0 the share of
    pairs at a distance below d = 1 - similarity is a power of d, p(d) = p_u (d / d_u)^a, with p_u = 0.001, d_u the
    quantile of it, and a such that the median of log(d_u / d) below d_u is log(2) / a (Hill, 1975; the median is not
    moved by true duplicates). The threshold is the lowest at which at most `false_pairs` of `count` (count - 1) / 2
    pairs are expected, but not below the similarity that 95% of the views exceed; or the given one.
    """
    views = (first * second).sum(1).double()
    row, column = torch.triu_indices(len(others), len(others), 1)
    distance = (1 - (others.double() @ others.double().T)[row, column]).clamp(min=1e-12)
    pairs = count * (count - 1) / 2
    share = _tail(distance)
    chosen = threshold
    if chosen is None:
        low, high = 1e-12, 2.0
        for _ in range(60):  # bisection on a logarithmic scale
            middle = (low * high) ** 0.5
            low, high = (middle, high) if share(middle) * pairs <= false_pairs else (low, middle)
        chosen = min(max(1 - low, float(views.quantile(1 - FOUND))), LARGEST_THRESHOLD)
    found = float((views >= chosen).double().mean())
    return Calibration(
        chosen, round(100 * found, 1), share(1 - chosen) * pairs, round(float(views.median()), 4),
        round(1 - float(distance.median()), 4) if len(distance) else 1.0,
    )  # fmt: skip


def _tail(distance: torch.Tensor) -> Callable[[float], float]:
    """Describe the share of pairs at a distance of at most d; increasing in d."""
    ordered = distance.sort().values
    if not len(ordered):
        return lambda d: 0.0
    place = min(len(ordered) - 1, max(FEWEST_PAIRS, int(TAIL * len(ordered))))
    bound, reached = float(ordered[place]), place / len(ordered)
    excess = (bound / ordered[ordered < bound]).log()
    median = float(excess.median()) if len(excess) else 0.0
    power = np.log(2) / median if median > 0 else 1.0

    def share(d: float) -> float:
        if d >= bound:
            return float(torch.searchsorted(ordered, d, right=True)) / len(ordered)
        return float(reached * (max(d, 0.0) / bound) ** power)

    return share


# --- groups ---------------------------------------------------------------------------------------------------------


def group_duplicates(
    z: Features, facts: Facts, threshold: float, title: str | None = None, index: Index | None = None
) -> list[Rows]:
    """Group images (N,) that the same pixels or a similarity of at least `threshold` connect, directly or not.

    Groups have two images and more, in order, and begin in the order of their first. Features (N, C) have unit length.
    All are compared, in blocks, or with an index those that it finds. With a title, a bar shows progress.
    """
    _, first, same = np.unique(facts.pixels, axis=0, return_index=True, return_inverse=True)
    if index is None:
        group = connect_similar(z[torch.from_numpy(first)], threshold, title)[same.ravel()]
    else:
        twins = np.stack([first[same.ravel()], np.arange(len(z))], 1)
        group = _connect(itertools.chain([twins], _pairs_of_index(z, threshold, index, title)), len(z))
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def connect_similar(z: Features, threshold: float, title: str | None = None) -> Rows:
    """Number the connected components (N,) of the graph whose edges are pairs of similarity >= `threshold`."""
    return _connect(_all_pairs(z, threshold, title), len(z))


def _all_pairs(z: Features, threshold: float, title: str | None) -> Iterator[Rows]:
    """Compare all with all, and give the similar pairs (n, 2) a block at a time."""
    parts = _parts(len(z))
    for part in show_progress(parts, title, len(parts)):
        similar = z[part.start : part.stop] @ z[part.start :].T >= threshold
        pairs: Rows = similar.nonzero().numpy()
        yield pairs[pairs[:, 1] > pairs[:, 0]] + part.start


def _pairs_of_index(z: Features, threshold: float, index: Index, title: str | None) -> Iterator[Rows]:
    """Give the similar pairs (n, 2) that an index finds, a block at a time."""
    radius = float(np.nextafter(np.float32(threshold), np.float32(-1)))  # the search is exclusive
    parts = _parts(len(z))
    for part in show_progress(parts, title, len(parts)):
        ends, _, found = index.faiss.range_search(z[part.start : part.stop].numpy(), radius)
        pairs = np.stack([np.repeat(np.array(part), np.diff(ends.astype(np.int64))), found], 1)
        yield pairs[pairs[:, 0] != pairs[:, 1]]


def _parts(count: int) -> list[range]:
    rows = min(ROWS_AT_A_TIME, max(1, SIMILARITIES_AT_A_TIME // max(1, count)))
    return [range(start, min(start + rows, count)) for start in range(0, count, rows)]


def _connect(parts: Iterable[Rows], count: int) -> Rows:
    """Number the connected components (N,) of pairs that come in parts."""
    edges, held = list[Rows](), 0
    for pairs in parts:
        edges.append(pairs)
        held += len(pairs)
        if held > EDGES_HELD:
            edges = [_forest(np.concatenate(edges), count)]
            held = len(edges[0])
    return _components(np.concatenate(edges), count)


def _components(edges: Rows, count: int) -> Rows:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _forest(edges: Rows, count: int) -> Rows:
    """Give fewer edges that connect the same: each image with the first of its component."""
    number = _components(edges, count)
    _, first = np.unique(number, return_index=True)
    pairs: Rows = np.stack([first[number], np.arange(count)], 1)
    apart: Rows = pairs[pairs[:, 0] != pairs[:, 1]]
    return apart


# --- what to keep ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """An image of a group: kept, or dropped in favour of one that is kept."""

    row: int
    instead: int | None
    """The image that is kept in its place; None for one that is kept."""
    kind: str
    """How it resembles that one: the same bytes, the same pixels, near; empty for one that is kept."""
    similarity: float
    """The similarity to that image; 1 for an image that is kept."""


def choose_kept(group: Rows, z: Features, facts: Facts, threshold: float, rule: KeepRule) -> list[Member]:
    """Decide which images of a group to keep, the best by the rule first, each followed by those it replaces.

    An image is dropped only where a kept one has its pixels or is itself that similar: of a chain of pictures, of which
    the first and the last are unlike, both stay.
    """
    left, members = list(_rank(group, facts, rule)), list[Member]()
    while left:
        best = left[0]
        rows = np.array(left)
        similarity = (z[rows] @ z[best]).numpy()
        same = (facts.pixels[rows] == facts.pixels[best]).all(1)
        gone = same | (similarity >= threshold)
        gone[0] = True
        members.append(Member(best, None, "", 1.0))
        for place in np.flatnonzero(gone)[1:]:
            row = left[place]
            members.append(Member(row, best, _resemblance(row, best, facts), float(min(1.0, similarity[place]))))
        left = [row for row, taken in zip(left, gone, strict=True) if not taken]
    return members


def _rank(group: Rows, facts: Facts, rule: KeepRule) -> Sequence[int]:
    keys: dict[str, Callable[[int], tuple[float, ...]]] = {
        "largest": lambda row: (-int(facts.height[row] * facts.width[row]), -int(facts.file_bytes[row]), row),
        "sharpest": lambda row: (-float(facts.sharpness[row]), row),
        "first": lambda row: (row,),
    }
    return sorted(group.tolist(), key=keys[rule])


def _resemblance(row: int, kept: int, facts: Facts) -> str:
    if facts.file_bytes[row] and (facts.content[row] == facts.content[kept]).all():
        return "same bytes"
    return "same pixels" if (facts.pixels[row] == facts.pixels[kept]).all() else "near"
