"""Views equal torchvision's float32 functions pixel by pixel, and their parameters have torchvision's distributions."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.functional as reference
from scipy import stats
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torchvision.transforms import ColorJitter, GaussianBlur, RandomResizedCrop

from moco.data import augment
from moco.data.augment import (
    AUGMENTATIONS,
    BRIGHTNESS,
    CONTRAST,
    HUE,
    ORDERS,
    SATURATION,
    ViewParameters,
    blur,
    blur_kernel_size,
    crop_batch,
    crop_one,
    draw,
    jitter,
    normalize,
    render,
    resampling_matrix,
    to_grey,
)
from moco.runtime.randomness import Stream
from tests import oracles
from tests.slow import slow

LARGEST = {
    "crop_one": 1e-6,  # 0 seen
    "crop_batch of small images": 8e-6,  # 5.4e-6
    "crop_batch of photographs": 5e-5,  # 2.6e-5
    "brightness": 0.0,  # 0
    "contrast": 2e-7,  # 6.0e-8
    "saturation": 2e-7,  # 6.0e-8
    "hue": 3e-6,  # 1.7e-6
    "grayscale": 0.0,  # 0
    "blur": 3e-6,  # 1.2e-6
    "hflip": 0.0,  # 0
    "normalize": 0.0,  # 0
    "jitter": 4e-6,  # 1.9e-6
    "render of small images": 4e-6,  # 1.4e-6
    "render of photographs": 1e-4,  # 4.5e-5
}
"""Largest difference to torchvision's pixels in [0, 1]: what these tests saw, and a margin for other machines.

Both sides are fp32, in another order of operations: about 1e-7 for each. A crop computes where a pixel lies in fp32,
which at 640 pixels is off by 3e-5 pixels, in torchvision as well (a test with the oracle shows both); hue divides by
the chroma, which is small in grey pixels.
"""

Windows = npt.NDArray[np.int64]


@functools.cache
def photographs() -> list[Tensor]:
    """Two photographs of 427x640 and noise of their size, as `decode` gives them: colours innermost."""
    noise = np.random.default_rng(0).integers(0, 256, (427, 640, 3), dtype=np.uint8)
    return [torch.from_numpy(pixels.copy()).permute(2, 0, 1) for pixels in (*load_sample_images().images, noise)]


def digits() -> Tensor:
    """Eight digits, 8x8."""
    grey = torch.from_numpy(load_digits().images[:8] * (255 / 16)).round().to(torch.uint8)
    return grey[:, None].repeat(1, 3, 1, 1)


def pictures(size: int) -> Tensor:
    """Squares with values in [0, 1]: of photographs, noise, digits, and every corner of the colour cube."""
    parts = [image[:, top : top + size, 100 : 100 + size] for image in photographs() for top in (0, 200)]
    squares = [crop_one(part, (0, 0, *part.shape[1:]), size) for part in (*parts, *digits()[:2])]
    corners = torch.tensor([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]).float()
    stripes = corners.repeat_interleave(-(-size // 8), 0)[:size].T[:, :, None].expand(3, size, size)
    return torch.stack([*squares, stripes, stripes.flip(1) * 0.5])


def factors(low: float, high: float, n: int) -> Tensor:
    """Both ends of a range and numbers between, (n, 1, 1, 1)."""
    inner = torch.from_numpy(np.random.default_rng(1).uniform(low, high, n - 2)).float()
    return torch.cat([torch.tensor([low, high]), inner]).view(-1, 1, 1, 1)


def check_close(found: Tensor, expected: Tensor, operation: str) -> None:
    """`found` may differ by the largest difference stated for the operation."""
    assert found.shape == expected.shape
    difference = float((found - expected).abs().max())
    assert difference <= LARGEST[operation], f"{operation}: {difference:.2e}"


# --- crops ----------------------------------------------------------------------------------------------------------


def windows(height: int, width: int, count: int) -> Windows:
    """Windows of all sizes, the whole image and a single pixel."""
    rng = np.random.default_rng(2)
    h, w = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    extremes = np.array([[0, 0, height, width], [height - 1, width - 1, 1, 1]])
    return np.concatenate([extremes, np.stack([top, left, h, w], axis=1)])


def reference_crop(image: Tensor, window: Sequence[int], size: int) -> Tensor:
    """Torchvision's crop and resize, in [0, 1]."""
    top, left, height, width = window
    pixels = image.contiguous().float() / 255
    return reference.resized_crop(pixels, top, left, height, width, [size, size], antialias=True)


@pytest.mark.parametrize("size", [224, 32])
def test_crop_one_equals_torchvision(size: int) -> None:
    """Enlarged and reduced, of images that lie in memory as decoders leave them."""
    for image in photographs():
        for window in windows(427, 640, 12).tolist():
            check_close(crop_one(image, window, size), reference_crop(image, window, size), "crop_one")


@pytest.mark.parametrize("size", [224, 32])
def test_crop_batch_of_photographs_equals_torchvision(size: int) -> None:
    """Each image has a window of its own."""
    for image in photographs():
        rows = windows(427, 640, 12)
        batch = image.contiguous().expand(len(rows), -1, -1, -1)
        expected = torch.stack([reference_crop(image, window, size) for window in rows.tolist()])
        check_close(crop_batch(batch, rows, size), expected, "crop_batch of photographs")


@pytest.mark.parametrize(("height", "width", "size"), [(96, 96, 96), (32, 32, 32), (28, 28, 224), (48, 96, 32)])
def test_crop_batch_of_small_images_equals_torchvision(height: int, width: int, size: int) -> None:
    """The sizes that are held in memory."""
    rows = windows(height, width, 40)
    images = torch.stack([photographs()[i % 3][:, :height, :width] for i in range(len(rows))])
    expected = torch.stack([reference_crop(image, w, size) for image, w in zip(images, rows.tolist(), strict=True)])
    check_close(crop_batch(images, rows, size), expected, "crop_batch of small images")


@pytest.mark.parametrize(
    ("in_size", "out_size", "tolerance"),
    [(8, 32, 2e-6), (32, 32, 2e-6), (96, 32, 2e-6), (96, 224, 8e-6), (500, 224, 4e-5), (5, 3, 2e-6)],
)
def test_resampling_matrix_equals_the_oracle(in_size: int, out_size: int, tolerance: float) -> None:
    """Weights of the triangle filter by plain loops in float64; fp32 positions of n pixels are off by n * 6e-8."""
    rng = np.random.default_rng(3)
    lengths = np.array([1, in_size, *rng.integers(1, in_size + 1, 10)])
    starts = rng.integers(0, in_size - lengths + 1)
    found = resampling_matrix(torch.from_numpy(starts).float(), torch.from_numpy(lengths).float(), in_size, out_size)
    for row, start, length in zip(found, starts, lengths, strict=True):
        expected = oracles.linear_resample_matrix(int(start), int(length), in_size, out_size)
        assert np.abs(row.numpy() - expected).max() <= tolerance
    # rows of fp32 weights add up to 1 within a rounding for each of some dozen weights
    assert torch.allclose(found.sum(2), torch.ones(len(lengths), out_size), atol=2e-6, rtol=0)


def test_crops_are_as_near_to_the_oracle_as_torchvision_is() -> None:
    """Neither is exact: both compute positions in fp32, to about 3e-5 at 640 pixels."""
    image, size = photographs()[2], 224
    for window in windows(427, 640, 6):
        top, left, height, width = window.tolist()
        rows = oracles.linear_resample_matrix(top, height, 427, size)
        columns = oracles.linear_resample_matrix(left, width, 640, size)
        exact = torch.from_numpy(rows @ (image.double().numpy() / 255) @ columns.T)
        ours = crop_batch(image.contiguous()[None], window[None], size)[0]
        assert (ours - exact).abs().max() <= LARGEST["crop_batch of photographs"]
        theirs = reference_crop(image, window.tolist(), size)
        assert (theirs - exact).abs().max() <= LARGEST["crop_batch of photographs"]


# --- colours, blur, flip --------------------------------------------------------------------------------------------

OURS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: augment.adjust_brightness,
    CONTRAST: augment.adjust_contrast,
    SATURATION: augment.adjust_saturation,
    HUE: augment.adjust_hue,
}
THEIRS: dict[int, Callable[[Tensor, float], Tensor]] = {
    BRIGHTNESS: reference.adjust_brightness,
    CONTRAST: reference.adjust_contrast,
    SATURATION: reference.adjust_saturation,
    HUE: reference.adjust_hue,
}
NAMES = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize("operation", range(4), ids=NAMES)
def test_colour_operation_equals_torchvision(operation: int) -> None:
    """Each picture with a dozen factors, the ends of the range among them."""
    factor = factors(-0.5, 0.5, 12) if operation == HUE else factors(0.0, 2.0, 12)
    for picture in pictures(64):
        found = OURS[operation](picture.repeat(12, 1, 1, 1), factor)
        expected = torch.stack([THEIRS[operation](picture, float(f)) for f in factor.flatten()])
        check_close(found, expected, NAMES[operation])
        assert found.min() >= 0
        assert found.max() <= 1


def test_to_grey_equals_torchvision() -> None:
    """Luminance in all three colours."""
    found = to_grey(pictures(64))
    check_close(found, reference.rgb_to_grayscale(pictures(64), num_output_channels=3), "grayscale")


@pytest.mark.parametrize(("size", "kernel"), [(224, 23), (32, 3)])
def test_blur_equals_torchvision(size: int, kernel: int) -> None:
    """Sigmas of 0.1 to 2, each image with its own, in one call."""
    assert blur_kernel_size(size) == kernel
    images = pictures(size)
    sigma = factors(0.1, 2.0, len(images)).flatten()
    expected = [
        reference.gaussian_blur(image, [kernel, kernel], [float(s), float(s)])
        for image, s in zip(images, sigma, strict=True)
    ]
    check_close(blur(images, sigma), torch.stack(expected), "blur")


def test_blur_kernel_is_odd_and_a_tenth_of_the_side() -> None:
    """An even kernel has no centre."""
    for size in range(1, 300):
        assert blur_kernel_size(size) % 2 == 1
        assert abs(blur_kernel_size(size) - size / 10) <= 1


def test_normalize_equals_torchvision() -> None:
    """Bit for bit, with colours innermost in memory."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = normalize(pictures(32), mean, std)
    check_close(found, reference.normalize(pictures(32), list(mean), list(std)), "normalize")
    assert found.is_contiguous(memory_format=torch.channels_last)


def reference_jitter(picture: Tensor, order: Sequence[int], values: Sequence[float]) -> Tensor:
    """Torchvision's colour functions, one after the other."""
    for operation in order:
        picture = THEIRS[operation](picture, values[operation])
    return picture


@pytest.mark.parametrize("augmentation", ["v1", "v2"])
def test_jitter_in_all_24_orders_equals_torchvision(augmentation: str) -> None:
    """One call for 24 copies of a picture, each with an order and factors of its own."""
    assert len({tuple(order) for order in ORDERS.tolist()}) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in ORDERS.tolist())
    parameters = drawn(augmentation, 24, (64, 64))
    for picture in pictures(64):
        found = picture.repeat(24, 1, 1, 1)
        jitter(found, ORDERS, torch.from_numpy(parameters.factors))
        expected = [
            reference_jitter(picture, order, values)
            for order, values in zip(ORDERS.tolist(), parameters.factors.tolist(), strict=True)
        ]
        check_close(found, torch.stack(expected), "jitter")


def test_jitter_leaves_images_without_an_order_alone() -> None:
    """An order of -1 means none."""
    images, order = pictures(32), np.tile(ORDERS[5], (10, 1))
    order[::2] = -1
    found = images.clone()
    jitter(found, order, torch.full((10, 4), 0.5))
    unchanged = [torch.equal(a, b) for a, b in zip(found, images, strict=True)]
    assert unchanged[::2] == [True] * 5
    assert not any(unchanged[1::2])


# --- whole views ----------------------------------------------------------------------------------------------------


def drawn(
    name: str, n: int, size: tuple[int, int], *, seed: int = 0, epoch: int = 0, first: int = 0,
    view: Stream = Stream.VIEW_QUERY,
) -> ViewParameters:  # fmt: skip
    """The parameters of views of the images first..first + n - 1, all of one size."""
    sizes, index = np.tile(np.array(size), (n, 1)), np.arange(first, first + n)
    return draw(AUGMENTATIONS[name], sizes, seed=seed, epoch=epoch, index=index, view=view)


def reference_view(image: Tensor, name: str, parameters: ViewParameters, i: int, size: int) -> Tensor:
    """One view by torchvision alone: v1 grey, jitter, flip; others jitter, grey, blur, flip."""
    view = reference_crop(image, parameters.crop[i].tolist(), size)
    order = [operation for operation in parameters.order[i].tolist() if operation >= 0]
    if name == "v1" and parameters.grey[i]:
        view = reference.rgb_to_grayscale(view, num_output_channels=3)
    view = reference_jitter(view, order, parameters.factors[i].tolist())
    if name != "v1" and parameters.grey[i]:
        view = reference.rgb_to_grayscale(view, num_output_channels=3)
    if parameters.sigma[i] > 0:
        kernel, sigma = 23 if size == 224 else 3, float(parameters.sigma[i])
        view = reference.gaussian_blur(view, [kernel, kernel], [sigma, sigma])
    return reference.hflip(view) if parameters.flip[i] else view


def check_every_branch_is_taken(name: str, parameters: ViewParameters) -> None:
    """The parity of whole views means little where nothing is drawn."""
    for values in (parameters.grey, parameters.flip):
        assert 0 < values.sum() < len(values)
    assert (parameters.order[:, 0] >= 0).all() == (name == "v1")
    assert (parameters.sigma > 0).any() == (name == "v2")


@pytest.mark.parametrize("name", [name if name in ("v2", "cifar") else slow(name) for name in AUGMENTATIONS])
def test_a_view_of_a_photograph_equals_torchvision(name: str) -> None:
    """The full chain at 224 pixels; images of several sizes as a list, of one size as a tensor."""
    n, size = 15, 224
    tries = (drawn(name, n, (427, 640), seed=seed) for seed in range(5, 60))  # mild makes few views grey
    parameters = next(views for views in tries if 0 < views.grey.sum() < n)
    check_every_branch_is_taken(name, parameters)
    images = [photographs()[i % 3] for i in range(n)]
    expected = torch.stack([reference_view(image, name, parameters, i, size) for i, image in enumerate(images)])
    for given in (images, torch.stack(images)):
        found = render(given, parameters, AUGMENTATIONS[name], size)
        check_close(found, expected, "render of photographs")
        assert found.min() >= 0
        assert found.max() <= 1 + 1e-6  # the blur's fp32 weights add up to 1 within a rounding, in torchvision too


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_view_of_a_small_image_equals_torchvision(name: str) -> None:
    """The full chain at 32 pixels, from 32 and from 8 pixels."""
    patches = torch.stack([photographs()[i % 3][:, i : i + 32, i : i + 32] for i in range(56)])
    for images in (patches, digits().repeat(7, 1, 1, 1)):
        parameters = drawn(name, 56, (images.shape[2], images.shape[3]))
        check_every_branch_is_taken(name, parameters)
        found = render(images, parameters, AUGMENTATIONS[name], 32)
        expected = [reference_view(image, name, parameters, i, 32) for i, image in enumerate(images)]
        check_close(found, torch.stack(expected), "render of small images")


def test_a_flip_mirrors_the_finished_view() -> None:
    """Bit for bit torchvision's hflip of the same view."""
    images, plain = digits(), dataclasses.replace(drawn("v2", 8, (8, 8)), flip=np.zeros(8, bool))
    flipped = dataclasses.replace(plain, flip=np.arange(8) % 2 == 1)
    before, after = (render(images, parameters, AUGMENTATIONS["v2"], 32) for parameters in (plain, flipped))
    assert torch.equal(after[::2], before[::2])
    check_close(after[1::2], reference.hflip(before[1::2]), "hflip")


def test_quarter_turns_turn_the_finished_view() -> None:
    """Bit for bit numpy's rotation of the same view, counterclockwise."""
    images, plain = digits(), drawn("v2", 8, (8, 8))
    assert plain.turns is None
    turned = dataclasses.replace(plain, turns=np.arange(8) % 4)
    before, after = (render(images, parameters, AUGMENTATIONS["v2"], 32) for parameters in (plain, turned))
    for i in range(8):
        np.testing.assert_array_equal(after[i].numpy(), np.rot90(before[i].numpy(), i % 4, (1, 2)))


def test_quarter_turns_are_equally_likely_and_change_nothing_else() -> None:
    """A chi-square test over the four turns; all that is drawn besides keeps every bit."""
    augmentation = dataclasses.replace(AUGMENTATIONS["v2"], quarter_turns=True)
    sizes = np.full((DRAWS, 2), 32)
    turned, plain = (
        draw(one, sizes, seed=0, epoch=0, index=np.arange(DRAWS), view=Stream.VIEW_KEY)
        for one in (augmentation, AUGMENTATIONS["v2"])
    )
    assert turned.turns is not None
    assert stats.chisquare(np.bincount(turned.turns, minlength=4)).pvalue > SMALLEST_P
    assert stats.chisquare(np.bincount(turned.turns[plain.flip], minlength=4)).pvalue > SMALLEST_P
    for field in dataclasses.fields(plain):
        if field.name != "turns":
            np.testing.assert_array_equal(getattr(turned, field.name), getattr(plain, field.name))


@pytest.mark.parametrize("form", ["list", "tensor"])
def test_rendering_leaves_the_images_as_they_are(form: str) -> None:
    """They are held in memory for the next epoch."""
    images = digits()
    render(list(images) if form == "list" else images, drawn("v2", 8, (8, 8)), AUGMENTATIONS["v2"], 8)
    assert torch.equal(images, digits())


def test_images_of_different_sizes_make_one_batch() -> None:
    """A list may hold any sizes; each is cropped by its own window."""
    images = [photographs()[i % 3][:, : 50 + 10 * i, : 200 - 5 * i] for i in range(12)]
    sizes = np.array([image.shape[1:] for image in images])
    parameters = draw(AUGMENTATIONS["v1"], sizes, seed=0, epoch=0, index=range(12), view=Stream.VIEW_KEY)
    found = render(images, parameters, AUGMENTATIONS["v1"], 32)
    expected = [reference_view(image, "v1", parameters, i, 32) for i, image in enumerate(images)]
    check_close(found, torch.stack(expected), "render of small images")


# --- what is drawn --------------------------------------------------------------------------------------------------

DRAWS = 4000
SMALLEST_P = 1e-3
"""Of some forty tests, each on the same draws every time: a wrong distribution gives p below 1e-9."""


@pytest.mark.parametrize("name", ["v1", "cifar"])
@pytest.mark.parametrize("size", [slow((64, 64)), (120, 90), (40, 100)], ids=str)
def test_crops_are_distributed_as_torchvision_s(name: str, size: tuple[int, int]) -> None:
    """Area, ratio and position by two-sample Kolmogorov-Smirnov tests; 40x100 sometimes needs the fallback window."""
    height, width = size
    scale, ratio = AUGMENTATIONS[name].crop_scale, AUGMENTATIONS[name].crop_ratio
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(DRAWS)])
    ours = drawn(name, DRAWS, size).crop
    figures: dict[str, Callable[[Windows], npt.NDArray[np.float64]]] = {
        "area": lambda crop: crop[:, 2] * crop[:, 3] / (height * width),
        "ratio": lambda crop: crop[:, 3] / crop[:, 2],
        "top": lambda crop: crop[:, 0] / height,
        "left": lambda crop: crop[:, 1] / width,
        "vertical share": lambda crop: crop[:, 0] / np.maximum(height - crop[:, 2], 1),
        "horizontal share": lambda crop: crop[:, 1] / np.maximum(width - crop[:, 3], 1),
    }
    for what, figure in figures.items():
        assert stats.ks_2samp(figure(ours), figure(theirs)).pvalue > SMALLEST_P, what


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_colour_factors_are_distributed_as_torchvision_s(name: str) -> None:
    """Two-sample Kolmogorov-Smirnov tests of brightness, contrast, saturation and hue."""
    strengths = AUGMENTATIONS[name].jitter
    ranges = [[1 - strength, 1 + strength] for strength in strengths[:HUE]] + [[-strengths[HUE], strengths[HUE]]]
    torch.manual_seed(0)
    theirs = np.array([ColorJitter.get_params(*ranges)[1:] for _ in range(DRAWS)], dtype=np.float64)
    ours = drawn(name, DRAWS, (32, 32)).factors
    for operation, (low, high) in enumerate(ranges):
        assert ours[:, operation].min() >= np.float32(low)
        assert ours[:, operation].max() <= np.float32(high)
        assert stats.ks_2samp(ours[:, operation], theirs[:, operation]).pvalue > SMALLEST_P, NAMES[operation]


def test_blur_is_distributed_as_torchvision_s() -> None:
    """Sigma, where there is one, is uniform from 0.1 to 2."""
    sigma = drawn("v2", DRAWS, (32, 32)).sigma
    torch.manual_seed(0)
    theirs = np.array([GaussianBlur.get_params(0.1, 2.0) for _ in range(DRAWS)])
    assert stats.ks_2samp(sigma[sigma > 0], theirs).pvalue > SMALLEST_P
    assert sigma[sigma > 0].min() >= np.float32(0.1)
    assert sigma.max() <= 2.0


@pytest.mark.parametrize(
    ("name", "jittered", "blurred"), [("v1", 1.0, 0.0), ("v2", 0.8, 0.5), ("cifar", 0.8, 0.0)], ids=str
)
def test_probabilities(name: str, jittered: float, blurred: float) -> None:
    """Chi-square tests of jitter, grey, blur and flip against the papers' probabilities."""
    parameters = drawn(name, DRAWS, (32, 32))
    for what, happened, probability in (
        ("jitter", parameters.order[:, 0] >= 0, jittered),
        ("grey", parameters.grey, 0.2),
        ("blur", parameters.sigma > 0, blurred),
        ("flip", parameters.flip, 0.5),
    ):
        if probability in (0.0, 1.0):
            assert happened.mean() == probability, what
        else:
            expected = [DRAWS * probability, DRAWS * (1 - probability)]
            observed = [happened.sum(), DRAWS - happened.sum()]
            assert stats.chisquare(observed, expected).pvalue > SMALLEST_P, what


def test_every_order_is_equally_likely() -> None:
    """A chi-square test over the 24 orders."""
    order = drawn("v1", DRAWS, (32, 32)).order
    found, counts = np.unique(order, axis=0, return_counts=True)
    assert found.tolist() == sorted(ORDERS.tolist())
    assert stats.chisquare(counts, np.full(24, DRAWS / 24)).pvalue > SMALLEST_P


def test_what_is_drawn_does_not_hang_together() -> None:
    """Correlations between any two parameters, and between query and key, are those of chance: below 5 / sqrt(n)."""
    columns = []
    for view in (Stream.VIEW_QUERY, Stream.VIEW_KEY):
        p = drawn("v2", DRAWS, (64, 64), view=view)
        shape = [p.crop[:, 2] * p.crop[:, 3], p.crop[:, 3] / p.crop[:, 2]]
        place = [p.crop[:, 0] / np.maximum(64 - p.crop[:, 2], 1), p.crop[:, 1] / np.maximum(64 - p.crop[:, 3], 1)]
        columns += [*shape, *place, *p.factors.T, p.order[:, 0], p.grey, p.sigma > 0, p.flip]
    correlations = np.corrcoef(np.array([np.asarray(column, dtype=np.float64) for column in columns]))
    assert np.abs(correlations - np.eye(len(columns))).max() < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("size", [(1, 100), (100, 1), (3, 300), (300, 7), (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("name", ["v1", "cifar"])
def test_extreme_images_take_torchvision_s_fallback_window(name: str, size: tuple[int, int]) -> None:
    """Where no window of the wanted area and ratio fits, it is the largest centred one of a permitted ratio."""
    scale, ratio = AUGMENTATIONS[name].crop_scale, AUGMENTATIONS[name].crop_ratio
    if min(size) > 1:  # the widest window of the least area is still too long for the image
        assert np.sqrt(size[0] * size[1] * scale[0] * ratio[0]) > min(size) + 0.5
    if max(size) > 2:
        expected = RandomResizedCrop.get_params(torch.empty(3, *size), list(scale), list(ratio))
        assert drawn(name, 20, size).crop.tolist() == [list(expected)] * 20
    else:  # a window of one pixel fits sometimes
        assert {tuple(window) for window in drawn(name, 500, size).crop.tolist()} == {
            RandomResizedCrop.get_params(torch.empty(3, *size), list(scale), list(ratio)) for _ in range(500)
        }


@pytest.mark.parametrize("name", ["v1", "cifar"])
def test_every_window_lies_inside_its_image(name: str) -> None:
    """Images of all sizes and shapes in one batch."""
    sizes = np.exp(np.random.default_rng(4).uniform(0, np.log(2000), (DRAWS, 2))).astype(np.int64)
    index = np.arange(DRAWS)
    crop = draw(AUGMENTATIONS[name], sizes, seed=0, epoch=0, index=index, view=Stream.VIEW_QUERY).crop
    assert (crop[:, :2] >= 0).all()
    assert (crop[:, 2:] >= 1).all()
    assert (crop[:, :2] + crop[:, 2:] <= sizes).all()


def rows(parameters: ViewParameters) -> list[tuple[object, ...]]:
    """What was drawn for each image."""
    fields = [getattr(parameters, field.name) for field in dataclasses.fields(parameters)]
    return list(zip(*(drawn.tolist() for drawn in fields if drawn is not None), strict=True))


def test_parameters_do_not_depend_on_the_rest_of_the_batch() -> None:
    """Alone, in another order or with others of other sizes: bit-equal."""
    sizes = np.array([[60 + i, 90 - i] for i in range(20)])

    def draw_rows(index: list[int]) -> list[tuple[object, ...]]:
        return rows(draw(AUGMENTATIONS["v2"], sizes[index], seed=3, epoch=4, index=index, view=Stream.VIEW_KEY))

    together = draw_rows(list(range(20)))
    assert [draw_rows([i])[0] for i in range(20)] == together
    assert draw_rows([7, 3, 19]) == [together[7], together[3], together[19]]
    assert len({str(row) for row in together}) == 20


@pytest.mark.parametrize(
    ("seed", "epoch", "first", "view"),
    [
        (1, 0, 0, Stream.VIEW_QUERY),
        (1 << 32, 0, 0, Stream.VIEW_QUERY),
        (0, 1, 0, Stream.VIEW_QUERY),
        (0, 0, 20, Stream.VIEW_QUERY),
        (0, 0, 0, Stream.VIEW_KEY),
    ],
)
def test_parameters_differ_with_seed_epoch_index_and_view(seed: int, epoch: int, first: int, view: Stream) -> None:
    """Each of the four changes the view of every image."""
    before = drawn("v1", 20, (200, 200))
    after = drawn("v1", 20, (200, 200), seed=seed, epoch=epoch, first=first, view=view)
    assert all(a != b for a, b in zip(rows(before), rows(after), strict=True))
