"""Images are brought to an encoder as torchvision would bring them."""

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.functional as reference
from sklearn.datasets import load_sample_images
from torch import Tensor

from moco.evaluation import preparation as module
from moco.evaluation.preparation import prepare_image, prepare_whole

LARGEST = 1e-6
"""Largest difference of a prepared pixel in [0, 1] to torchvision's: 0 seen, and a margin for other machines."""


@functools.cache
def whole_photograph() -> npt.NDArray[np.uint8]:
    """One that comes with scikit-learn."""
    return load_sample_images().images[0]


def photograph(height: int, width: int) -> Tensor:
    """A piece of a photograph (427x640), repeated where it is too small, colours innermost as `decode` gives it."""
    pixels = np.tile(whole_photograph(), (3, 3, 1))[:height, :width]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def reference_prepare(image: Tensor, size: int, short_side: int) -> Tensor:
    """Torchvision's Resize of the shorter side and CenterCrop, of float pixels."""
    pixels = image.contiguous().float() / 255
    return reference.center_crop(reference.resize(pixels, [short_side], antialias=True), [size, size])


SHAPES = [(427, 640), (640, 427), (256, 256), (100, 100), (375, 500), (333, 499), (224, 224), (300, 900)]
AWKWARD = [(49, 98), (98, 49), (206, 309), (237, 474), (374, 500), (500, 394)]
"""Sides s for which s * (256 / s) is a little less than 256 in floating point."""


@pytest.mark.parametrize("shape", [*SHAPES, *AWKWARD], ids=str)
def test_prepare_at_224_resizes_to_256_and_cuts_the_centre(shape: tuple[int, int]) -> None:
    """As in the papers, in both directions and for odd sides."""
    image = photograph(*shape)
    found = prepare_image(image, 224)
    assert found.shape == (3, 224, 224)
    assert (found - reference_prepare(image, 224, 256)).abs().max() <= LARGEST


@pytest.mark.parametrize(("size", "short_side"), [(65, 74), (96, 110), (128, 146), (448, 512)])
def test_prepare_at_other_sizes_keeps_the_same_share(size: int, short_side: int) -> None:
    """The shorter side is size / 0.875, rounded."""
    image = photograph(427, 640)
    assert (prepare_image(image, size) - reference_prepare(image, size, short_side)).abs().max() <= LARGEST


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (100, 108), (44, 40)], ids=str)
def test_prepare_at_small_sizes_resizes_the_whole(size: int, shape: tuple[int, int]) -> None:
    """Up to 64 pixels nothing of a square is cut off; an image of that size is left as it is."""
    image = photograph(*shape)
    pixels = image.contiguous().float() / 255
    found = prepare_image(image, size)
    assert (found - reference.resize(pixels, [size, size], antialias=True)).abs().max() <= LARGEST
    if shape == (size, size):
        assert torch.equal(found, pixels)


@pytest.mark.parametrize(("size", "short_side"), [(16, 18), (32, 37), (64, 73)])
@pytest.mark.parametrize("shape", [(427, 640), (64, 40), (100, 113)], ids=str)
def test_prepare_at_small_sizes_squeezes_nothing(size: int, short_side: int, shape: tuple[int, int]) -> None:
    """Of what is no square the centre is cut, as at larger sizes: views of training are not squeezed either."""
    image = photograph(*shape)
    assert (prepare_image(image, size) - reference_prepare(image, size, short_side)).abs().max() <= LARGEST


@pytest.mark.parametrize("size", [16, 24, 65, 100])
@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (100, 113), (5, 120)], ids=str)
@pytest.mark.parametrize("prepare", [prepare_image, prepare_whole])
def test_images_prepared_together_are_those_prepared_alone(
    prepare: Callable[[torch.Tensor, int], torch.Tensor], shape: tuple[int, int], size: int
) -> None:
    """Bit for bit, for bytes and for channels, whether each image or each pixel lies in one piece."""
    count = 5
    batch = torch.stack([photograph(*shape).roll(row, 1) for row in range(count)])
    for images in (batch, batch.float().repeat(1, 2, 1, 1), batch.contiguous(memory_format=torch.channels_last)):
        alone = torch.stack([prepare(image, size) for image in images])
        assert torch.equal(prepare(images, size), alone)


@pytest.mark.parametrize("shape", [(3, 1, 5000), (3, 5000, 1), (3, 2, 100_000)])
def test_a_line_of_pixels_takes_little_memory(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """Resized as a whole, one of 5000 pixels would have 570,000 x 114 and more; its middle is what is cut out."""
    resized: list[int] = []
    resize = module._resize

    def noted(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
        resized.append(height * width)
        return resize(pixels, height, width)

    monkeypatch.setattr(module, "_resize", noted)
    image = torch.zeros(shape, dtype=torch.uint8)
    middle = [slice(side // 2 - 20, side // 2 + 20) if side > 10 else slice(None) for side in shape[1:]]
    image[:, middle[0], middle[1]] = 255
    found = prepare_image(image, 100)
    assert found.shape == (3, 100, 100)
    assert bool((found == 1).all())
    assert max(resized) <= 114 * 114 * 17
