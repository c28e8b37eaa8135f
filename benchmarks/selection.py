"""Accuracy of a linear classifier on labels that `moco select` chose, beside as many that were drawn.

    moco embed --weights W --data D --unit --out features.npz
    python benchmarks/selection.py features.npz 100 200 500

For three draws of 80% of the training images as the pool: scikit-learn's logistic regression (C = 0.01, features scaled
to deviation 1) learns from the chosen images of the pool and is measured on all test images. Prints mean and sample
standard deviation over the draws, in percent.
"""

import sys
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from moco.curation.selection import MOST_CLUSTERS, choose_random, choose_spread, choose_typical
from moco.explore.embed_run import clusters

DRAWS, POOL = 3, 0.8


def choose(z: torch.Tensor, count: int, draw: int) -> dict[str, list[int]]:
    """Rows of the pool by each method."""
    numbers = clusters(z.numpy().astype(np.float64), min(count, MOST_CLUSTERS))
    return {
        "random": choose_random(len(z), count, draw), "typical": choose_typical(z, numbers, count),
        "spread": choose_spread(z, count),
    }  # fmt: skip


def main() -> None:
    """Choose, learn, measure."""
    path, *numbers = sys.argv[1:]
    with np.load(path, allow_pickle=False) as file:
        features, labels, train = file["features"], file["labels"], file["splits"] == "train"
    found: dict[tuple[int, str], list[Any]] = {}
    scaled = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    for draw in range(DRAWS):
        pool = np.random.default_rng(draw).permutation(np.flatnonzero(train))[: int(POOL * train.sum())]
        for count in map(int, numbers):
            for name, rows in choose(torch.from_numpy(features[pool]), count, draw).items():
                model = LogisticRegression(C=0.01, max_iter=300).fit(scaled[pool[rows]], labels[pool[rows]])
                right = model.predict(scaled[~train]) == labels[~train]
                found.setdefault((count, name), []).append(100 * right.mean())
    for (count, name), values in found.items():
        print(f"{count:5} {name:8} {np.mean(values):6.2f} +- {np.std(values, ddof=1):.2f}")


if __name__ == "__main__":
    main()
