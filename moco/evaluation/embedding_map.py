"""Features -> places in a plane (t-SNE, van der Maaten and Hinton, JMLR 2008)."""

import time

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.float64]

FEWEST = 50
"""Points below which the map is the first two principal components."""
STEPS = 250
"""Of one stage; scikit-learn pulls neighbours together twelve times as hard in the first."""
STAGES = 3
PERPLEXITY = 30.0
COMPONENTS = 50


def flat_map(z: Places, seconds: float) -> tuple[Places, str]:
    """Bring features (N, C) to places (N, 2), and say how.

    Another stage begins only where it is likely to end within `seconds`; up to there the map is the same every time.
    """
    reduced = principal_components(z, min(COMPONENTS, *z.shape))
    places = np.zeros((len(z), 2))
    places[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    if len(z) < FEWEST:
        return places, "first two principal components"
    from sklearn.manifold import TSNE

    started, done = time.monotonic(), 0
    places = 1e-4 * places / max(places[:, 0].std(), 1e-12)
    for stage in range(STAGES):
        place = TSNE(
            init=places, perplexity=min(PERPLEXITY, len(z) / 4), early_exaggeration=1.0 if stage else 12.0,
            learning_rate=max(len(z) / 48, 50.0), max_iter=STEPS, random_state=0,
        )  # fmt: skip
        places, done = place.fit_transform(reduced).astype(np.float64), done + STEPS
        if (time.monotonic() - started) * (1 + 1 / (stage + 1)) > seconds:
            break
    return places, f"t-SNE, {done} steps, on {reduced.shape[1]} principal components"


def principal_components(z: Places, count: int) -> Places:
    """The projections of rows z (N, C) on their `count` directions of largest variance."""
    centred = z - z.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    u *= np.where(u[np.abs(u).argmax(0), np.arange(u.shape[1])] < 0, -1, 1)  # else the signs are arbitrary
    return np.asarray(u[:, :count] * s[:count])
