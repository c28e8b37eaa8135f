"""The nearest other images of every image: exact up to 10^5 images, in blocks; by an index above.

The index is faiss's inverted file: images lie in lists around k-means centres, and a query looks at the images of the
lists whose centres are nearest to it. How many lists is chosen by the recall on some of the images themselves.
"""

import importlib
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.evaluation.knn import QUERIES_AT_A_TIME, nearest, nearest_others
from moco.runtime.checkpoint import Metadata
from moco.runtime.progress import show_progress
from moco.shapes import Bank, Features

EXACT_UP_TO = 100_000
"""Images among which all are compared."""
WANTED, ASKED = 0.98, 256
"""The wanted recall, and the number of images that measure it."""
LISTS_LOOKED_AT = (16, 32, 64, 128, 256)
LEARNED_FROM, ROUNDS = 64, 10
"""Images for each centre, at most, and rounds of k-means."""
ADDED_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Index:
    """An approximate search over features."""

    faiss: Any
    """faiss's index."""
    recall: float
    """Share of the k nearest others, by exact search, that it finds."""
    lists: int
    """Lists that are looked at."""


def find_others(z: Features, k: int, index: Index | None = None, title: str | None = None) -> tuple[Tensor, Tensor]:
    """Find similarities and rows (N, k) of the k other images most similar to each, nearest first.

    Features (N, C) have unit length. Of fewer than k others all are found. Without an index all are compared.
    With a title, a bar shows progress.
    """
    parts = torch.split(torch.arange(len(z)), QUERIES_AT_A_TIME)
    found = [
        nearest_others(z, part, k) if index is None else _search_others(z, part, k, index.faiss)
        for part in show_progress(parts, title, len(parts))
    ]
    return torch.cat([similarity for similarity, _ in found]), torch.cat([row for _, row in found])


def find_nearest(queries: Features, z: Bank, k: int, index: Index | None = None) -> tuple[Tensor, Tensor]:
    """Find similarities and rows (Q, k) of the k images most similar to each query (Q, C), nearest first."""
    if index is None:
        return nearest(queries, z, k)
    similarity, rows = (torch.from_numpy(own) for own in index.faiss.search(queries.numpy(), k))
    return similarity, rows


def needs_index(count: int) -> bool:
    """Return whether an index takes the place of exact search; without faiss, which a warning names, it never does."""
    if count <= EXACT_UP_TO:
        return False
    if find_spec("faiss") is None:
        hint = "pip install 'momentum-contrast[search]' finds neighbours sooner"
        warnings.warn(f"all {count} images are compared with each other, which takes long: {hint}", stacklevel=2)
        return False
    return True


def build_index(z: Features, k: int) -> Index:
    """Build an index of features (N, C) of unit length and choose how many lists a query looks at."""
    faiss, numbers = importlib.import_module("faiss"), np.ascontiguousarray(z.numpy())
    faiss.omp_set_num_threads(torch.get_num_threads())
    count, width = numbers.shape
    lists = min(2 ** round(np.log2(4 * count**0.5)), max(1, count // 4))
    made = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    made.cp.max_points_per_centroid, made.cp.niter = LEARNED_FROM, ROUNDS
    made.cp.min_points_per_centroid = 1  # fewer are no reason for a warning
    made.train(numbers)
    for start in range(0, count, ADDED_AT_A_TIME):
        made.add(numbers[start : start + ADDED_AT_A_TIME])
    return _choose_lists(made, z, k)


def _choose_lists(made: Any, z: Features, k: int) -> Index:
    """Look at more lists until the recall is as wanted."""
    rows = torch.from_numpy(np.unique(np.linspace(0, len(z) - 1, min(ASKED, len(z))).astype(np.int64)))
    exact = nearest_others(z, rows, k)[1].numpy()
    for lists in LISTS_LOOKED_AT:
        made.nprobe = lists
        found = _search_others(z, rows, k, made)[1].numpy()
        recall = float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(exact, found, strict=True)]))
        if recall >= WANTED or lists >= made.nlist:
            break
    return Index(made, recall, lists)


def _search_others(z: Features, rows: Tensor, k: int, made: Any) -> tuple[Tensor, Tensor]:
    """The k others of some rows; where lists hold fewer, the last is given again."""
    similarity, others = [], []
    for part in torch.split(rows, QUERIES_AT_A_TIME):
        row = torch.from_numpy(made.search(z[part].numpy(), min(k + 1, len(z)))[1])
        away = ((row == part[:, None]) | (row < 0)).to(torch.uint8).sort(dim=1, stable=True).indices[:, :-1]
        found = row.gather(1, away)
        last = (found >= 0).to(torch.int64).cumsum(1).argmax(1, keepdim=True)
        found = torch.where(found < 0, found.gather(1, last), found)
        others.append(found)
        similarity.append((z[part][:, None] * z[found]).sum(2))
    return torch.cat(similarity), torch.cat(others)


def pack_index(index: Index) -> tuple[dict[str, Tensor], Metadata]:
    """Give what `unpack_index` makes the index of again."""
    faiss = importlib.import_module("faiss")
    content = torch.from_numpy(faiss.serialize_index(index.faiss))
    return {"index": content}, {"recall": index.recall, "lists": index.lists}


def unpack_index(tensors: dict[str, Tensor], about: Metadata) -> Index:
    """Make the index of what `pack_index` gave."""
    made = importlib.import_module("faiss").deserialize_index(tensors["index"].numpy())
    made.nprobe = int(about["lists"])
    return Index(made, float(about["recall"]), int(about["lists"]))
