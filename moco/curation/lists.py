"""Lists of a set's images for a person to look through: duplicates, outliers and what to label first."""

import numpy as np
import torch

from moco.curation.duplicates import calibrate, group_duplicates
from moco.curation.facts import Facts
from moco.curation.neighbours import find_others
from moco.curation.outliers import rank_outliers
from moco.curation.selection import MOST_CLUSTERS, choose_typical
from moco.explore.embed_run import clusters
from moco.shapes import Features

COMPARED, NEIGHBOURS, LISTED = 1024, 20, 100
IMAGES_IN_A_CLUSTER, MOST_GROUPS = 50, 100

Lists = list[list[int]]


def list_duplicates(z: Features, facts: Facts, first: Features, second: Features) -> Lists:
    """Group images (N,) that are alike, by a threshold from two views (M, C) of some; one false pair is expected."""
    rows = np.unique(np.linspace(0, len(z) - 1, min(COMPARED, len(z))).astype(np.int64))
    _, distinct = np.unique(facts.pixels[rows], axis=0, return_index=True)
    known = calibrate(
        first, second, z[torch.from_numpy(rows[np.sort(distinct)])], len(z), false_pairs=1, threshold=None
    )
    return [group.tolist() for group in group_duplicates(z, facts, known.threshold)]


def list_outliers(z: Features, facts: Facts) -> Lists:
    """List the 100 most unusual images, the most unusual first, as one group."""
    similarity, _ = find_others(z, NEIGHBOURS)
    count = min(MOST_GROUPS, max(2, len(z) // IMAGES_IN_A_CLUSTER))
    ranked = rank_outliers(z, similarity, clusters(z.numpy(), count), facts)
    return [[one.row for one in ranked[:LISTED]]]


def list_selection(z: Features) -> Lists:
    """List the 100 images to label first, as one group."""
    count = min(LISTED, MOST_CLUSTERS, len(z))
    return [choose_typical(z, clusters(z.numpy(), count), LISTED)]
