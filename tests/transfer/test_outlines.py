"""Outlines are pycocotools' masks."""

import warnings

import numpy as np
import pytest

from moco.transfer.outlines import draw_masks, pack_outline


def jagged(rng: np.random.Generator, size: tuple[int, int]) -> list[float]:
    """A polygon as people draw them: corners around a middle, at any distance, partly outside the image."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 30))))
    middle, radius = rng.uniform(0, size[::-1]), rng.uniform(0.5, max(size) / 2, len(angles))
    corners = middle + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return [float(value) for value in corners.round(2).ravel()]


@pytest.mark.parametrize("seed", range(12))
def test_masks_as_pycocotools(seed: int) -> None:
    """Polygons of one and several parts, and run lengths as text, numbers and drawn, are the reference's masks."""
    pytest.importorskip("faster_coco_eval")
    mask, rng = pytest.importorskip("pycocotools.mask"), np.random.default_rng(seed)
    size = (int(rng.integers(5, 90)), int(rng.integers(5, 90)))
    outline = [jagged(rng, size) for _ in range(1 + seed % 3)]
    run_lengths = mask.merge(mask.frPyObjects(outline, *size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools and NumPy 2
        expected = mask.decode(run_lengths)
    text = {"size": list(size), "counts": run_lengths["counts"].decode()}
    edges = np.flatnonzero(np.diff(np.concatenate([[0], expected.ravel(order="F")])))
    counts = np.diff([0, *edges, expected.size]).tolist()
    for form in (outline, text, {"size": list(size), "counts": counts}):
        np.testing.assert_array_equal(draw_masks([pack_outline(form, size)], size)[0], expected)


def test_run_lengths_without_an_end() -> None:
    """A text of continuation characters is refused at its eighth, not summed up to a number of megabytes."""
    for text in ("o" * 8, "o" * 5_000_000):
        with pytest.raises(ValueError, match="more than 32 bits"):
            pack_outline({"size": [4, 4], "counts": text}, (4, 4))
