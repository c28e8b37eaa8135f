"""Features -> places in a plane (t-SNE, van der Maaten and Hinton, JMLR 2008)."""

import math
import time

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.float64]

FEWEST = 50
"""Points below which the map is the first two principal components."""
STEPS = 250
"""Steps of one stage; scikit-learn pulls neighbours together twelve times as hard in the first."""
LEAST_STAGES, STAGES = 2, 3
"""After the first stage alone 3,000 images of CIFAR-10 were on a line; after the second they filled the plane."""
PERPLEXITY = 30.0
COMPONENTS = 50
LARGEST_DIRECT, LANDMARKS = 10_000, 3_000
"""Images beyond which some are placed first and the others start beside the most similar of them, and how many."""
MOST_FITTED = 100_000
"""Rows from which principal components are computed, at most; each then takes 8 bytes a number."""
BESIDE = 5
"""Landmarks that an image starts between."""


def flat_map(z: Places, seconds: float) -> tuple[Places, str]:
    """Bring features (N, C) to places (N, 2), and say how.

    A third stage begins only if it is likely to end within `seconds`; up to there the map is the same every time.
    """
    reduced = principal_components(z, min(COMPONENTS, *z.shape))
    if len(z) < FEWEST:
        places = np.zeros((len(z), 2))
        places[:, : min(2, reduced.shape[1])] = reduced[:, :2]
        return places, "first two principal components"
    if len(z) > LARGEST_DIRECT:
        return _from_landmarks(reduced, seconds)
    places, done = _staged(reduced, seconds)
    return places, f"t-SNE, {done} steps, on {reduced.shape[1]} principal components"


def _staged(reduced: Places, seconds: float) -> tuple[Places, int]:
    """t-SNE from the first two components, and how many steps were done."""
    started, done = time.monotonic(), 0
    places = np.zeros((len(reduced), 2))
    places[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    places *= 1e-4 / max(places[:, 0].std(), 1e-12)
    for stage in range(STAGES):
        places, done = _stage(reduced, places, early=stage == 0), done + STEPS
        if stage + 1 >= LEAST_STAGES and (time.monotonic() - started) * (1 + 1 / (stage + 1)) > seconds:
            break
    return places, done


def _stage(reduced: Places, places: Places, *, early: bool) -> Places:
    from sklearn.manifold import TSNE

    place = TSNE(
        init=places, perplexity=min(PERPLEXITY, len(reduced) / 4), early_exaggeration=12.0 if early else 1.0,
        learning_rate=max(len(reduced) / 48, 50.0), max_iter=STEPS, random_state=0,
    )  # fmt: skip
    return np.asarray(place.fit_transform(reduced), np.float64)


def _from_landmarks(reduced: Places, seconds: float) -> tuple[Places, str]:
    """t-SNE of some images, then of all from there (Kobak and Berens, Nature Communications 2019, "Initialization").

    An image starts at the mean place of the landmarks most similar to it. Where there is no time for a stage of all
    images they stay there.
    """
    from sklearn.neighbors import NearestNeighbors

    started, count = time.monotonic(), len(reduced)
    rows = np.linspace(0, count - 1, LANDMARKS).astype(np.int64)
    placed, done = _staged(reduced[rows], seconds)
    per_stage = (time.monotonic() - started) / (done / STEPS)
    per_stage *= count * math.log(count) / (LANDMARKS * math.log(LANDMARKS))  # Barnes-Hut
    distance, landmark = NearestNeighbors(n_neighbors=BESIDE).fit(reduced[rows]).kneighbors(reduced)
    weight = 1 / np.maximum(distance, 1e-6) ** 2
    places = (placed[landmark] * weight[:, :, None]).sum(1) / weight.sum(1)[:, None]
    places *= math.sqrt(count / LANDMARKS)  # more points need more room
    method, later = f"t-SNE, {done} steps, of {LANDMARKS} images", 0
    while later < STAGES * STEPS and time.monotonic() - started + per_stage < seconds:
        places, later = _stage(reduced, places, early=False), later + STEPS
    method += f", then {later} of all {count}" if later else ", the others beside them"
    return places, f"{method}, on {reduced.shape[1]} principal components"


def principal_components(z: Places | npt.NDArray[np.float32], count: int) -> Places:
    """Project rows z (N, C) on their `count` directions of largest variance, at most those of 100,000 rows."""
    from sklearn.decomposition import PCA

    components = PCA(count, random_state=0)
    with np.errstate(invalid="ignore"):  # the share of a variance of 0, which nobody reads
        if len(z) <= MOST_FITTED:
            return np.asarray(components.fit_transform(z.astype(np.float64, copy=False)), np.float64)
        components.fit(z[np.linspace(0, len(z) - 1, MOST_FITTED).astype(np.int64)].astype(np.float64))
    starts = range(0, len(z), MOST_FITTED)
    parts = [components.transform(z[start : start + MOST_FITTED].astype(np.float64)) for start in starts]
    return np.asarray(np.concatenate(parts), np.float64)
