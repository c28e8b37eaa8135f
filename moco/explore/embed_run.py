"""Embeds many images by a run's encoder for the explorer: features, map and clusters, kept in the run's folder."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moco.data.images import Images
from moco.errors import BadInputError
from moco.evaluation.features import encode
from moco.evaluation.session import Subject, backbone_digest, say
from moco.explore.embedding import Embedding
from moco.explore.embedding_map import COMPONENTS, flat_map, principal_components
from moco.explore.neighbours import Floats
from moco.runtime.checkpoint import load_tensors, save_tensors
from moco.runtime.phases import say_if_slow
from moco.shapes import Features

FILE = Path("evaluations") / "explore.safetensors"
VERSION = 1
"""Version of the file's format."""


@dataclass(frozen=True)
class Scope:
    """How much is computed beside the features."""

    map_seconds: float
    """Time that the map may take, about."""
    clusters: int
    """Groups that k-means makes, at most."""


def embed_run(run: Path, subject: Subject, images: Images, digest: str, scope: Scope, name: str) -> Embedding:
    """Read features, map and clusters of these images from the run's folder, or compute and keep them there.

    `digest` is that of the set from which the images come. Where only map or clusters were asked for otherwise, the
    features are taken from there.
    """
    how = dataclasses.replace(subject.how, unit=True)
    of = {
        "version": VERSION, "weights": backbone_digest(subject.encoder), "image_size": how.image_size,
        "images": digest, "count": len(images),
    }  # fmt: skip
    asked = {**of, "map_seconds": scope.map_seconds, "clusters": scope.clusters}
    stored = _stored(run / FILE)
    if stored is not None and stored[1].get("asked") == asked:
        tensors, metadata = stored
        features, places, groups = (tensors[key].numpy() for key in ("features", "places", "clusters"))
        return Embedding(name, features, places, groups, str(metadata["method"]))
    if stored is not None and {key: stored[1].get("asked", {}).get(key) for key in of} == of:
        z = stored[0]["features"]
    else:
        z = encode(subject.encoder, images, how, title=f"{run}: encoding {len(images)} images")
    say(f"{run}: placing {len(images)} images on a map: up to {scope.map_seconds:g} s")
    places, method = place_in_square(z, scope.map_seconds)
    with say_if_slow(f"{run}: dividing {len(images)} images into {scope.clusters} clusters"):
        made = Embedding(name, z.numpy(), places, clusters(z.numpy(), scope.clusters), method)
    tensors = {"features": z, "places": torch.from_numpy(places), "clusters": torch.from_numpy(made.clusters)}
    try:
        save_tensors(run / FILE, tensors, {"asked": asked, "method": method})
    except OSError as error:
        raise BadInputError(
            f"{run / FILE}: cannot be written ({error.strerror}): free some space, or make it writable"
        ) from error
    return made


def _stored(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Read the result of an earlier call; None if there is no intact one."""
    if not path.is_file():
        return None
    try:
        return load_tensors(path)
    except BadInputError:
        return None


def place_in_square(z: Features, seconds: float) -> tuple[Floats, str]:
    """Bring features (N, C) to places (N, 2) in [0, 1], within about `seconds`, and say how."""
    place, method = flat_map(z.numpy().astype(np.float64), seconds)
    low, high = place.min(0), place.max(0)
    scaled = 0.5 + (place - (low + high) / 2) / max(float((high - low).max()), 1e-12)
    return scaled.astype(np.float32), method


def clusters(z: npt.NDArray[np.float32] | npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Group features (N, C) by k-means on their principal components: group numbers (N,), largest first."""
    return divide_reduced(reduce_features(z), count)


def reduce_features(z: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Project features (N, C) on at most 50 principal components."""
    return principal_components(z, min(COMPONENTS, *z.shape))


def divide_reduced(reduced: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Group rows (N, C) by k-means into at most `count` groups, no more than different rows: (N,)."""
    from sklearn.cluster import MiniBatchKMeans

    some = reduced[:: max(1, len(reduced) // (4 * count))]  # sorting all rows takes long
    distinct = len(np.unique(some, axis=0))
    if distinct < count:
        distinct = len(np.unique(reduced, axis=0))
    means = MiniBatchKMeans(min(count, distinct), random_state=0, n_init=3, batch_size=4096)
    found = means.fit_predict(reduced)
    rank = np.argsort(np.argsort(-np.bincount(found, minlength=count), kind="stable"))
    return np.asarray(rank[found], np.int64)
