"""What is wrong or doubtful in images and annotations is said before a run trains on them."""

import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.errors import BadInputError
from moco.transfer import checking
from moco.transfer.checking import check_examples
from moco.transfer.examples import Layout, files_of, open_examples
from tests.transfer.layouts import coco_content, save_values, write_coco
from tests.transfer.test_label_maps import write_semantic

TURNED, UPSIDE_DOWN = 6, 3


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "kept"))


def check(layout: Layout, data: Path) -> list[str]:
    """What is said of a folder."""
    train, test = (open_examples(layout, data, split) for split in ("train", "test"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_examples(str(data), train, test, files_of(data, train, test))
    return [str(warning.message) for warning in caught]


def turn(path: Path, orientation: int) -> None:
    """Give an image an EXIF tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Six images of 40 x 30 pixels in each split."""
    for split in ("train", "val"):
        write_coco(tmp_path / "coco", coco_content(1, size=(30, 40)), split)
    return tmp_path / "coco"


def test_sound_images_are_looked_at_once(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of them; where nothing changed no header is read again, and after a change all are."""
    assert check("coco", coco) == []
    monkeypatch.setattr(checking, "read_header", None)
    assert check("coco", coco) == []
    turn(coco / "train" / "0.png", UPSIDE_DOWN)
    with pytest.raises(TypeError):
        check("coco", coco)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_were_turned_after_they_were_annotated(coco: Path, split: str) -> None:
    """Only the stored picture has the size of the annotation: it is read, its boxes fit, and that is said."""
    before = open_examples("coco", coco, "train" if split == "train" else "test")[2][0]
    turn(coco / split / "2.png", TURNED)
    (said,) = check("coco", coco)
    assert re.search(r"1 (training|test) images are read as they are stored .* 2\.png$", said.replace("/", " "))
    assert torch.equal(open_examples("coco", coco, "train" if split == "train" else "test")[2][0], before)
    turn(coco / split / "1.png", UPSIDE_DOWN)
    with pytest.raises(BadInputError, match=r"1\.png: an EXIF tag .*; its size does not tell .*2\.png was: remove"):
        check("coco", coco)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_of_another_size(coco: Path, split: str) -> None:
    """In the images that are tested on last, too; the first is named."""
    for name in ("1", "2"):
        Image.new("RGB", (5, 5)).save(coco / split / f"{name}.png")
    with pytest.raises(BadInputError, match=r"1\.png: 5 x 5 pixels .*, and 1 further \w+ images: replace"):
        check("coco", coco)
    (coco / split / "0.png").write_bytes(b"<html>")
    with pytest.raises(BadInputError, match=r"0\.png: cannot be read as an image"):
        check("coco", coco)


def test_turned_images_whose_size_does_not_tell(coco: Path) -> None:
    """By half a turn the size stays: nobody knows of which image the boxes are. It is said each time."""
    turn(coco / "val" / "2.png", UPSIDE_DOWN)
    for _ in range(2):
        (said,) = check("coco", coco)
        assert "an EXIF tag turns or mirrors 1 test images" in said
        assert "val/2.png: they are read upright" in said


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    """255 is void: what is left is one class, of which every pixel would be right."""
    values = np.zeros((6, 8), int)
    values[2:4, 2:4] = 255
    for names in (None, "ground\nlesion\n"):
        folder = tmp_path / str(names is None)
        write_semantic(folder, values, names)
        with pytest.raises(BadInputError, match=r"show 1 of [12] classes \(.* 91\.7%, void 8\.3%\), .* write 1 for it"):
            check("voc-semantic", folder)


def test_classes_without_a_pixel(tmp_path: Path) -> None:
    """They are named with the shares of the others; a value that is no class is refused with the image's counts."""
    values = np.arange(48).reshape(6, 8) % 2
    write_semantic(tmp_path, values, "ground\nlesion\nvessel\n")
    said = check("voc-semantic", tmp_path)
    assert said == [
        f"{tmp_path}: no pixel of vessel in the {split} images (ground 50.0%, lesion 50.0%)"
        for split in ("training", "test")
    ]
    save_values(tmp_path / "SegmentationClass" / "b.png", values * 7)
    with pytest.raises(BadInputError, match=r"b\.png: a pixel has the value 7, .*their pixels: 0 \(24\), 7 \(24\)\)"):
        check("voc-semantic", tmp_path)
    save_values(tmp_path / "SegmentationClass" / "b.png", values.T)
    with pytest.raises(BadInputError, match=r"b\.jpg: 8 x 6 pixels .*, expected 6 x 8 as annotated"):
        check("voc-semantic", tmp_path)


def test_files_of_an_archive_are_told_apart(tmp_path: Path) -> None:
    """Masks of the same name, size and time as sound ones are looked at: what was kept is of other files."""
    for value in (1, 255):
        values = np.full((6, 8), 0)
        values[2:4, 2:4] = value
        write_semantic(tmp_path / "data", values, "ground\nlesion\n")
        for path in (tmp_path / "data").rglob("*.*"):
            os.utime(path, (1e9, 1e9))
        if value == 1:
            assert check("voc-semantic", tmp_path / "data") == []
            shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadInputError, match="show 1 of 2 classes"):
        check("voc-semantic", tmp_path / "data")


def test_a_folder_that_cannot_be_written_to(coco: Path, tmp_path: Path) -> None:
    """Nothing is kept then."""
    (tmp_path / "kept").write_text("a file")
    assert check("coco", coco) == []


def test_a_split_without_images(tmp_path: Path) -> None:
    """Refused in one line: there are no shares of no pixels."""
    write_semantic(tmp_path, np.arange(48).reshape(6, 8) % 2, "ground\nlesion\n")
    for split in ("val", "test"):
        (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("", encoding="utf-8")
    with pytest.raises(BadInputError, match="no test images"):
        check("voc-semantic", tmp_path)
