"""Changes of colour for any channels: against plain loops, and as functions of what they are drawn for."""

import numpy as np
import torch

from moco.data.augment import AUGMENTATIONS, Augmentation, draw, render
from moco.data.bands import NOISE, add_noise, adjust_bands
from moco.runtime.randomness import Stream

STD = (1.0, 20.0, 0.5, 300.0)
SIZES = np.full((64, 2), 24)


def drawn(augmentation: Augmentation, deviations: tuple[float, ...] = STD, index: int = 0) -> "object":
    """Parameters of 64 views."""
    rows = np.arange(index, index + 64)
    return draw(augmentation, SIZES, seed=3, epoch=1, index=rows, view=Stream.VIEW_KEY, deviations=deviations)


def test_equal_a_plain_loop() -> None:
    """Every channel of every view: m + f (x - m) + s, with m the mean of the channel in that view."""
    parameters = drawn(AUGMENTATIONS["v2"])
    bands = parameters.bands  # type: ignore[attr-defined]
    pixels = torch.randn(64, 4, 6, 6) * torch.tensor(STD).view(1, 4, 1, 1)
    found = adjust_bands(pixels, bands)
    for view in range(64):
        for channel in range(4):
            values = pixels[view, channel].double().numpy()
            factor, shift = float(bands.factor[view, channel]), float(bands.shift[view, channel])
            expected = values.mean() + factor * (values - values.mean()) + shift
            np.testing.assert_allclose(found[view, channel].numpy(), expected, rtol=1e-4, atol=1e-3 * STD[channel])


def test_strengths_are_in_standard_deviations() -> None:
    """Brightness and contrast up to 0.4, independent for each channel; a fifth of v2's views is not changed."""
    bands = drawn(AUGMENTATIONS["v2"]).bands  # type: ignore[attr-defined]
    shift = bands.shift / np.array(STD)
    assert np.abs(shift).max() <= 0.4
    assert np.abs(bands.factor - 1).max() <= 0.4
    assert np.abs(shift).max() > 0.35
    changed = np.abs(shift).max(1) > 0
    assert 0.65 < changed.mean() < 0.95
    assert np.array_equal(changed, bands.noise.max(1) > 0)
    assert np.abs(np.corrcoef(shift[changed].T)[0, 1:]).max() < 0.4
    assert (bands.noise / np.array(STD)).max() <= NOISE


def test_noise_has_its_deviation() -> None:
    """Over one large view; another view has other noise, the same view the same."""
    bands = drawn(AUGMENTATIONS["v1"]).bands  # type: ignore[attr-defined]
    first, second = torch.zeros(64, 4, 40, 40), torch.zeros(64, 4, 40, 40)
    add_noise(first, bands)
    add_noise(second, bands)
    assert torch.equal(first, second)
    np.testing.assert_allclose(first.std((2, 3)).numpy(), bands.noise, rtol=0.1)
    assert not torch.equal(first[0], first[1])


def test_crops_are_those_of_rgb() -> None:
    """The same image, epoch and seed have the same window, blur and flip whatever the channels are."""
    rgb, bands = drawn(AUGMENTATIONS["v2"], ()), drawn(AUGMENTATIONS["v2"])
    for name in ("crop", "sigma", "flip"):
        assert np.array_equal(getattr(rgb, name), getattr(bands, name))
    assert rgb.bands is None  # type: ignore[attr-defined]


def test_a_view_depends_on_its_own_image_only() -> None:
    """What else is in the batch changes nothing."""
    whole, part = drawn(AUGMENTATIONS["v1"]), drawn(AUGMENTATIONS["v1"], index=32)
    for name in ("shift", "factor", "noise"):
        whole_values, part_values = (getattr(own.bands, name) for own in (whole, part))  # type: ignore[attr-defined]
        assert np.array_equal(whole_values[32:], part_values[:32])
    assert whole.bands.seeds[32:] == part.bands.seeds[:32]  # type: ignore[attr-defined]


def test_without_changes_a_view_is_its_crop() -> None:
    """As linear evaluations draw them: values stay in the file's units, and are not cut off."""
    plain = Augmentation((1.0, 1.0), (0.0,) * 4, 0.0, 0.0, flip_probability=0.0, crop_ratio=(1.0, 1.0))
    images = torch.randn(64, 4, 24, 24) * 1e5
    views = render(images, drawn(plain), plain, 24)  # type: ignore[arg-type]
    torch.testing.assert_close(views, images, rtol=1e-5, atol=1e-2)
