"""Images that are much smaller than the views are warned of."""

import warnings
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from moco.data.catalog import load
from moco.data.sizes import measure_side, warn_of_small


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Three images of 6 x 9 pixels, and a file that is none."""
    for name in range(3):
        PillowImage.new("RGB", (6, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return str(tmp_path)


def test_views_much_larger_than_the_images_are_warned_of(small: str) -> None:
    """With both sizes; of images of 8 pixels and more views may be four times as large."""
    images = load(small)["train"]
    assert measure_side(images) == 6
    with pytest.warns(UserWarning, match=r"about 6 pixels wide or high, and views have 8: .* --image-size"):
        warn_of_small(images, small, 8)
    digits = load("digits")["train"]  # of 8 pixels
    with pytest.warns(UserWarning, match="about 8 pixels"):
        warn_of_small(digits, "digits", 33)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_small(digits, "digits", 32)


def test_a_set_of_which_nothing_can_be_read_is_not_measured(tmp_path: Path) -> None:
    """Others say what is wrong with it."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert measure_side(load(str(tmp_path))["train"]) is None
