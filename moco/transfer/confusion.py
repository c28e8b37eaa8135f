"""Label maps against label maps: mean intersection over union."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from moco.transfer.targets import VOID

Cells = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""The cells of an image's confusion matrix that are not empty, truth * classes + prediction, and their counts."""


def count_confusions(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int) -> Cells:
    """Return how often each class (H, W) was taken for which; void pixels do not count."""
    known = truth != VOID
    cells, counts = np.unique(truth[known] * classes + predicted[known], return_counts=True)
    return cells, counts


def semantic_figures(images: Iterable[Cells], classes: tuple[str, ...]) -> dict[str, float]:
    """Compute mIoU, pixel accuracy and the IoU of each class, in percent, over the pixels of all images.

    IoU = true / (true + false + missed). A class that is neither there nor predicted has none, and is not in the mean.
    """
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for cells, counts in images:
        matrix.flat[cells] += counts
    right, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    seen = union > 0
    each = {name: 100 * float(right[row] / union[row]) for row, name in enumerate(classes) if seen[row]}
    mean = sum(each.values()) / max(len(each), 1)
    accuracy = 100 * float(right.sum() / max(matrix.sum(), 1))
    return {"mIoU": mean, "pixel_accuracy": accuracy} | {f"IoU/{name}": value for name, value in each.items()}
