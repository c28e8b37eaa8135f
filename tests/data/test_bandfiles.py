"""Images of several files, a band each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from moco.data.catalog import load
from moco.data.images import FileImages
from moco.data.settling import Asked
from moco.errors import BadInputError

RNG = np.random.default_rng(2)
BANDS = ("_B02.tif", "_B03.tif", "_B8A.tif")


def write(path: Path, side: int = 8, kind: Any = np.uint16) -> np.ndarray:
    """A file of one band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 3000, (side, side)).astype(kind)
    tifffile.imwrite(path, values)
    return values


def scenes(root: Path, count: int = 4) -> dict[str, np.ndarray]:
    """Scenes in two classes; returns each one's bands in the order of BANDS."""
    found = {}
    for number in range(count):
        scene = f"{'ab'[number % 2]}/s{number}"
        found[scene] = np.stack([write(root / f"{scene}{band}") for band in BANDS])
    return found


def opened(root: Path, bands: tuple[str, ...] = BANDS, channels: str = "auto") -> FileImages:
    """The images of a folder."""
    images = load(str(root), form=Asked(channels, bands))["train"]
    assert isinstance(images, FileImages)
    return images


@pytest.mark.parametrize("endings", [BANDS, ("_B02", "_B03", "_B8A"), ("_B8A", "_B02")])
def test_files_of_a_scene_are_one_image(tmp_path: Path, endings: tuple[str, ...]) -> None:
    """In the order of the endings, with the class of their folder; what is of no band is left out."""
    expected = scenes(tmp_path)
    write(tmp_path / "a" / "s0_TCI.tif")
    images = opened(tmp_path, endings)
    assert len(images) == 4
    assert images.labels is not None
    assert images.form is not None
    assert images.form.bands == endings
    order = [next(i for i, band in enumerate(BANDS) if ending in band) for ending in endings]
    for row in range(4):
        np.testing.assert_array_equal(images[row].numpy(), expected[images.name(row)][order])
        assert images.classes[images.labels[row]] == images.name(row)[0]


def test_a_folder_for_each_scene_is_no_class(tmp_path: Path) -> None:
    """s1/B02.tif, s1/B03.tif: the images are called by their folders."""
    for scene in ("s1", "s2", "s3"):
        for band in ("B02.tif", "B03.tif"):
            write(tmp_path / scene / band)
    images = opened(tmp_path, ("B02.tif", "B03.tif"))
    assert images.labels is None
    assert [images.name(row) for row in range(3)] == ["s1/", "s2/", "s3/"]


def test_a_changed_band_changes_the_marks(tmp_path: Path) -> None:
    """A run knows its images by all of their files."""
    scenes(tmp_path)
    images = opened(tmp_path)
    before = images.identify(np.arange(4))
    tifffile.imwrite(tmp_path / "a" / "s0_B8A.tif", np.zeros((9, 9), np.uint16))
    after = images.identify(np.arange(4))
    assert (before.contents != after.contents).tolist() == [True, False, False, False]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """The scene and the ending; a band of another size at the first look."""
    scenes(tmp_path)
    (tmp_path / "b" / "s1_B03.tif").unlink()
    with pytest.raises(
        BadInputError, match=r"b/s1 has no file ending in _B03.tif: expected _B02.tif _B03.tif _B8A.tif"
    ):
        opened(tmp_path)
    write(tmp_path / "b" / "s1_B03.tif", side=4)
    with pytest.raises(BadInputError, match=r"s1_B03.tif: 4 x 4 pixels of uint16, expected 8 x 8 of uint16 as in"):
        opened(tmp_path)[2]
    with pytest.raises(BadInputError, match=r"no file ends in _X.tif"):
        opened(tmp_path, ("_X.tif",))
    with pytest.raises(BadInputError, match="expected different endings"):
        opened(tmp_path, ("_B02.tif", "_B02.tif"))
    with pytest.raises(BadInputError, match="is for a folder or list of files"):
        load("digits", form=Asked("auto", BANDS))


def test_two_files_of_one_band(tmp_path: Path) -> None:
    """s0_B02.tif and s0_B02.png: which one is meant?"""
    scenes(tmp_path)
    write(tmp_path / "a" / "s0_B02.tiff")
    with pytest.raises(BadInputError, match="are both the band _B02"):
        opened(tmp_path, ("_B02", "_B03", "_B8A"))
