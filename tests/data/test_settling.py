"""What the images of a set are: asked for, or as its files have it; measured once, and the same in all."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as PillowImage

from moco.data.catalog import load
from moco.data.derived import Joined, Readable, Subset
from moco.data.forms import Form, parse_channels, parse_no_data
from moco.data.images import ArrayImages, Images, hold
from moco.data.kept import KeptImages
from moco.data.settling import Asked
from moco.errors import BadInputError

RNG = np.random.default_rng(1)


def bands(folder: Path, count: int = 6, channels: int = 4, kind: Any = np.uint16, side: int = 9) -> np.ndarray:
    """A folder of TIFFs; returns their values."""
    folder.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(100, 4000, (count, channels, side, side)).astype(kind)
    for number, image in enumerate(values):
        tifffile.imwrite(folder / f"{number:02}.tif", image, photometric="minisblack", planarconfig="separate")
    return values


def opened(data: Path, *asked: Any, **more: Any) -> Images:
    """The images of a folder."""
    return load(str(data), form=Asked(*(asked or ("auto",)), **more))["train"]


def test_bands_are_read_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mean and deviation are those of numpy over all pixels, and stand in the line that is printed."""
    values = bands(tmp_path / "x").astype(np.float64)
    images = opened(tmp_path / "x")
    form = images.form
    assert form is not None
    assert (form.channels, form.depth, form.bands, form.no_data) == (4, "uint16", (), None)
    np.testing.assert_allclose(form.mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(form.std, values.std((0, 2, 3)), rtol=1e-5)
    assert images[3].dtype == torch.float32
    np.testing.assert_array_equal(images[3].numpy(), values[3])
    assert "its images have 4 channels of uint16, read at full depth; mean " in capsys.readouterr().err


def test_far_from_zero_nothing_is_lost(tmp_path: Path) -> None:
    """Temperatures in tenths of a degree above a million, say."""
    (tmp_path / "x").mkdir()
    values = RNG.normal(1e6, 0.5, (6, 2, 8, 8)).astype(np.float32)
    for number, image in enumerate(values):
        np.save(tmp_path / "x" / f"{number}.npy", image)
    form = opened(tmp_path / "x").form
    assert form is not None
    np.testing.assert_allclose(form.std, values.astype(np.float64).std((0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pictures_of_bytes_stay_as_they_are(tmp_path: Path, mode: str) -> None:
    """The fast way: nothing is measured, and the pixels are those of a load without --channels."""
    for number in range(5):
        noise = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
        PillowImage.fromarray(noise).convert(mode).save(tmp_path / f"{number}.png")
    plain, auto = load(str(tmp_path))["train"], opened(tmp_path)
    assert auto.form is None
    assert all(torch.equal(plain[row], auto[row]) for row in range(5))
    assert opened(tmp_path, "3" if mode == "RGB" else "rgb").form is None
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    if mode != "RGB":
        form = opened(tmp_path, str(channels)).form
        assert form is not None
        assert (form.channels, form.depth) == (channels, "uint8")


def test_pages_of_bytes_are_not_dropped_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a stack of 8-bit pages the first is read, and a line says so, once; a preview is no page."""
    pages = [PillowImage.new("L", (9, 9), 40 * page) for page in range(4)]
    for number in range(4):
        pages[0].save(tmp_path / f"{number}.tif", save_all=True, append_images=pages[1:])
    assert opened(tmp_path, "auto").form is None
    said = capsys.readouterr().err
    line = "its TIFFs have up to 4 pages, and only the first of each is read: --channels 4 reads all as channels"
    assert said.count(line) == 1
    assert opened(tmp_path, "4")[0].shape == (4, 9, 9)
    other = tmp_path / "other"
    other.mkdir()
    pages[0].save(other / "a.tif", save_all=True, append_images=[PillowImage.new("L", (3, 3))])
    opened(other, "auto")
    assert "only the first" not in capsys.readouterr().err


@pytest.mark.parametrize("channels", ["auto", "rgb", "3"])
def test_no_value_of_pictures_means_none(tmp_path: Path, channels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag without effect is said, and one that is no number is refused as ever."""
    for number in range(5):
        PillowImage.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    assert opened(tmp_path, channels, (), "0").form is None
    assert "--no-data 0 has no effect: its images are read as bytes of RGB" in capsys.readouterr().err
    with pytest.raises(BadInputError, match=r"--no-data 'x\.txt': expected a number, or nan"):
        opened(tmp_path, channels, (), "x.txt")


def test_grey_of_16_bits_is_one_channel(tmp_path: Path) -> None:
    """It is no longer made 8 bits, unless RGB is asked for, or a white level is given."""
    values = RNG.integers(0, 4096, (5, 8, 8)).astype(np.uint16)
    for number, image in enumerate(values):
        (tmp_path / f"{number}.png").write_bytes(imagecodecs.png_encode(image))
    images = opened(tmp_path)
    assert images.form is not None
    assert images.form.channels == 1
    np.testing.assert_array_equal(images[2][0].numpy(), values[2])
    assert opened(tmp_path, "rgb").form is None
    scaled = load(str(tmp_path), white_level=4095, form=Asked("auto"))["train"]
    assert scaled.form is None
    assert scaled.white_level == 4095


def test_images_that_differ_are_named(tmp_path: Path) -> None:
    """Both kinds, and both files."""
    bands(tmp_path / "x", 6)
    bands(tmp_path / "x" / "y", 1, channels=3)
    with pytest.raises(BadInputError, match=r"y/00.tif is 3 channels of uint16, expected 4 channels of uint16, as 00"):
        opened(tmp_path / "x")
    bands(tmp_path / "x" / "y", 1, kind=np.float32)
    with pytest.raises(BadInputError, match=r"y/00.tif is 4 channels of float, expected 4 channels of uint16"):
        opened(tmp_path / "x")
    with pytest.raises(BadInputError, match=r"00.tif is 4 channels of uint16, expected 13 .*as --channels"):
        opened(tmp_path / "x", "13")


def test_a_form_of_weights_is_kept(tmp_path: Path) -> None:
    """Evaluations read files as the run did, measure nothing, and refuse what is of another kind by its name."""
    bands(tmp_path / "x")
    form = Form(4, "uint16", (1.0,) * 4, (2.0,) * 4)
    assert load(str(tmp_path / "x"), form=form)["train"].form == form
    other = load(str(tmp_path / "x"), form=Form(2, "uint16", (1.0,) * 2, (2.0,) * 2))["train"]
    with pytest.raises(BadInputError, match=r"00.tif: 4 channels of uint16, expected 2 channels of uint16"):
        other[0]
    with pytest.raises(BadInputError, match="--data digits: bytes of RGB, expected images of 4 channels"):
        load("digits", form=form)


def test_missing_values_are_not_measured(tmp_path: Path) -> None:
    """By a flag, and by the files' own tags."""
    (tmp_path / "x").mkdir()
    for number in range(4):
        image = np.full((1, 6, 6), 10 + number, np.int16)
        image[0, 0] = -9999
        tag = [(42113, "s", 0, "-9999", True)]
        tifffile.imwrite(tmp_path / "x" / f"{number}.tif", image, photometric="minisblack", extratags=tag)
    images = opened(tmp_path / "x")
    assert images.form is not None
    assert images.form.no_data == "-9999"
    np.testing.assert_allclose(images.form.mean, [11.5])
    assert float(images[0][0, 0, 0]) == 11.5
    given = opened(tmp_path / "x", no_data="13").form
    assert given is not None
    assert given.no_data == "13"


@pytest.mark.parametrize(
    ("kind", "tag", "told"),
    [(np.uint16, "-9999", "-9999"), (np.int32, "-2147483648", "-2147483648"), (np.uint32, "4294967295", "4294967295"),
     (np.float32, "-3.4028234663852886e+38", "-3.4028234663852886e+38"), (np.int16, "-1.0", "-1")],
)  # fmt: skip
def test_tags_of_missing_values(tmp_path: Path, kind: type[np.generic], tag: str, told: str) -> None:
    """To the last digit; in unsigned images -9999, which GDAL writes there too, is nowhere."""
    (tmp_path / "x").mkdir()
    for number in range(4):
        image = np.full((1, 6, 6), 10 + number, kind)
        image[0, 0, 0] = 0 if kind == np.uint16 else float(tag)
        where = [(42113, "s", 0, tag, True)]
        tifffile.imwrite(tmp_path / "x" / f"{number}.tif", image, photometric="minisblack", extratags=where)
    images = opened(tmp_path / "x")
    assert images.form is not None
    assert images.form.no_data == told
    assert float(images[0][0, 0, 0]) == (0 if kind == np.uint16 else pytest.approx(11.5))


def test_nan_without_a_flag(tmp_path: Path) -> None:
    """All images have some: the line says what to give."""
    (tmp_path / "x").mkdir()
    for number in range(4):
        np.save(tmp_path / "x" / f"{number}.npy", np.full((2, 4, 4), np.nan, np.float32))
    with pytest.raises(BadInputError, match=r"0.npy: 32 of 32 values are not finite .* give --no-data nan"):
        opened(tmp_path / "x")


def test_numpy_files_in_classes_and_splits(tmp_path: Path) -> None:
    """They are images where there are no others; beside pictures they are not."""
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "x" / split / name).mkdir(parents=True)
            for number in range(3):
                np.save(tmp_path / "x" / split / name / f"{number}.npy", RNG.normal(size=(3, 8, 8)))
    splits = load(str(tmp_path / "x"), form=Asked("auto"))
    assert {split: len(images) for split, images in splits.items()} == {"train": 6, "test": 6}
    assert splits["train"].classes == ("a", "b")
    assert splits["test"].form == splits["train"].form
    PillowImage.new("RGB", (8, 8)).save(tmp_path / "x" / "train" / "a" / "0.png")
    assert load(str(tmp_path / "x" / "train"), form=Asked("auto"))["train"].form is None


def test_sets_of_sets_have_the_form(tmp_path: Path) -> None:
    """A part, joined sets, stand-ins, kept and held images say what they are made of."""
    bands(tmp_path / "x")
    images = opened(tmp_path / "x")
    held = hold(images)
    assert isinstance(held, ArrayImages)
    assert torch.equal(held[1], images[1])
    part = Subset(images, np.array([1, 2]))
    other = Form(4, "uint16", (0.0,) * 4, (1.0,) * 4)
    for made in (held, part, Joined((images, part), ("", "y/")), Readable(images), KeptImages(images)):
        assert made.form == images.form
        assert torch.equal(made[1], images[2] if made is part else images[1])
        if made is not held:
            assert made.with_form(other).form == other


@pytest.mark.parametrize("text", ["0", "65", "-1", "four", "1e9", ""])
def test_channels_that_there_are_not(text: str) -> None:
    """One line."""
    with pytest.raises(BadInputError, match=f"--channels {text}: expected auto, rgb, or a number from 1 to 64"):
        parse_channels(text)


def test_no_data_that_is_no_number() -> None:
    """One line."""
    with pytest.raises(BadInputError, match="--no-data 'none': expected a number, or nan"):
        parse_no_data("none")
