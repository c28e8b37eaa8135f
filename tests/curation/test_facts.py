"""What is measured of an image equals plain numpy."""

import numpy as np
import pytest
import torch

from moco.curation.facts import Facts, blank_facts, measure_image


def test_measures_by_loops() -> None:
    """Variance of the Laplacian, deviation of the brightness, distance of the colours."""
    image = torch.randint(0, 256, (3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    facts = measure_image(image, b"abc")
    rgb = image.numpy().astype(float) / 255
    grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    edges = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 5) for x in range(1, 4)
    ]  # fmt: skip
    assert facts.sharpness[0] == pytest.approx(np.var(edges), rel=1e-4)
    assert facts.contrast[0] == pytest.approx(grey.std(), rel=1e-4)
    assert facts.colour[0] == pytest.approx((rgb.max(0) - rgb.min(0)).mean(), rel=1e-4)
    assert (facts.height[0], facts.width[0], facts.file_bytes[0]) == (6, 5, 3)


def test_digests_tell_images_apart() -> None:
    """The same pixels in another shape are another image; a file that is not there has no digest."""
    flat = torch.zeros(3, 4, 4, dtype=torch.uint8)
    facts = Facts.stack(
        [measure_image(flat, None), measure_image(flat.reshape(3, 2, 8), b""), measure_image(flat, b"")]
    )
    assert not facts.content[0].any()
    assert (facts.pixels[0] == facts.pixels[2]).all()
    assert (facts.pixels[0] != facts.pixels[1]).any()


def test_tiny_images_and_columns() -> None:
    """An image of one pixel has no edges; columns go to tensors and back."""
    facts = Facts.stack([measure_image(torch.zeros(3, 1, 1, dtype=torch.uint8), b""), blank_facts()])
    again = Facts.from_tensors(facts.to_tensors())
    assert (again.take(np.array([1])).height == 0).all()
    assert again.sharpness.tolist() == [0, 0]
