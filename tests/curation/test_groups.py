"""Groups of blobs are the blobs, their number is found, and the silhouette is that of plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moco.curation.groups import compute_silhouette, describe_groups, divide_images, mean_share


def blobs() -> tuple[torch.Tensor, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Three directions with 30, 20 and 10 images."""
    label = np.repeat(np.arange(3), (30, 20, 10))
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    return F.normalize(torch.eye(8)[torch.from_numpy(label)] + 0.05 * noise), label


@pytest.mark.parametrize("k", [None, 3])
def test_blobs(k: int | None) -> None:
    """Numbered from the largest."""
    z, label = blobs()
    numbers, silhouette = divide_images(z, k)
    assert np.array_equal(numbers, label)
    assert silhouette > 0.7


def test_the_silhouette_by_loops() -> None:
    """Mean of (b - a) / max(a, b)."""
    z, label = blobs()
    points = z.numpy()

    def mean(i: int, group: int) -> float:
        return float(
            np.mean([np.linalg.norm(points[i] - points[j]) for j in range(60) if j != i and label[j] == group])
        )

    values = []
    for i in range(60):
        a, b = mean(i, label[i]), min(mean(i, other) for other in range(3) if other != label[i])
        values.append((b - a) / max(a, b))
    assert compute_silhouette(z, label) == pytest.approx(np.mean(values), abs=1e-4)


def test_names_and_representatives() -> None:
    """The nearest to the mean stands first; a label is that of most; images without one do not count."""
    z, label = blobs()
    labels = label.copy()
    labels[:10], labels[10] = -1, 2
    groups = describe_groups(z, label, labels)
    first = max(range(30), key=lambda i: float(z[i] @ z[:30].mean(0)))
    assert groups[0].rows[0] == first
    assert groups[0].label == 0
    assert groups[0].share == pytest.approx(19 / 20)
    assert mean_share(groups) == pytest.approx((30 * 19 / 20 + 20 + 10) / 60)
    assert mean_share(describe_groups(z, label, np.full(60, -1))) is None
    assert compute_silhouette(z, np.zeros(60, np.int64)) == 0
