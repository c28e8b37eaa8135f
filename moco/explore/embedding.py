"""What the explorer shows, as it is handed to it, and as the page's script gets it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.explore.neighbours import Floats
from moco.report.markup import to_plain_text

FULL = 65535
"""Places are sent as integers from 0 to this."""
SHORTEST_PIXELS = 64
"""Largest side at which pixels are shown as squares."""


@dataclass(frozen=True)
class Embedding:
    """The N images as one encoder orders them."""

    name: str
    features: Floats
    """(N, C), unit length."""
    places: Floats
    """(N, 2), in [0, 1]."""
    clusters: npt.NDArray[np.int64]
    """(N,), numbered from the largest."""
    method: str
    """How the map was made."""


@dataclass(frozen=True)
class Collection:
    """The images that all embeddings are of; who gives them numbers them from 0."""

    data: str
    names: Sequence[str]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    image_size: int
    thumbnail: Callable[[int], bytes]
    """Makes the WebP picture of an image. Raises BadInputError if it cannot be read."""
    encode: Callable[[bytes], list[Floats]]
    """Computes an image file's feature (C,) by each encoder. Raises BadInputError if it is not an image."""


def describe_maps(collection: Collection, embeddings: Sequence[Embedding]) -> dict[str, Any]:
    """Collect what the page's script draws the maps from, ready for JSON; every name becomes one line of text."""
    return {
        "data": to_plain_text(collection.data),
        "names": [to_plain_text(name) for name in collection.names],
        "labels": None if collection.labels is None else collection.labels.tolist(),
        "classes": [to_plain_text(name) for name in collection.classes],
        "pixelated": collection.image_size <= SHORTEST_PIXELS,
        "version": secrets.token_hex(4),  # of the thumbnails, which a browser may keep
        "runs": [_placed(embedding) for embedding in embeddings],
    }


def _placed(embedding: Embedding) -> dict[str, Any]:
    x, y = np.round(np.clip(embedding.places, 0, 1).T * FULL).astype(int)
    return {
        "name": to_plain_text(embedding.name), "method": to_plain_text(embedding.method),
        "x": x.tolist(), "y": y.tolist(), "clusters": embedding.clusters.tolist(),
    }  # fmt: skip
