"""Label images of VOC and Cityscapes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.errors import BadInputError
from moco.transfer.cityscapes import EVALUATED
from moco.transfer.examples import open_examples
from moco.transfer.label_maps import voc_colour
from tests.transfer.layouts import save_image, save_values


def write_semantic(root: Path, values: np.ndarray, names: str | None = None) -> None:
    """A VOC segmentation folder of one image for each split."""
    for name in ("a", "b"):
        save_image(root / "JPEGImages" / f"{name}.jpg", *values.shape)
        save_values(root / "SegmentationClass" / f"{name}.png", values, palette=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    if names is not None:
        (root / "classes.txt").write_text(names)


def test_camvid(camvid: Path) -> None:
    """Real scenes: 367 to train on without the validation list's, eleven classes, void."""
    train, test = open_examples("voc-semantic", camvid, "train"), open_examples("voc-semantic", camvid, "test")
    assert (len(train), len(test)) == (367, 233)
    assert train.classes[:2] == ("sky", "building")
    image, labels = train[0]
    assert image.shape[1:] == labels.shape == (180, 240)
    assert set(labels.unique().tolist()) <= {*range(11), 255}


def test_palettes_are_not_colours(tmp_path: Path) -> None:
    """Values, not what the palette shows; names from classes.txt, or numbers up to the largest value."""
    values = np.arange(12).reshape(3, 4) % 3
    values[0, 0] = 255
    write_semantic(tmp_path / "numbered", values)
    examples = open_examples("voc-semantic", tmp_path / "numbered", "test")
    assert examples.classes == ("class 0", "class 1", "class 2")
    np.testing.assert_array_equal(examples[0][1], values)
    write_semantic(tmp_path / "named", values, "grass\nstone\n")
    named = open_examples("voc-semantic", tmp_path / "named", "train")
    with pytest.raises(BadInputError, match=r"a\.png: a pixel has the value 2, expected 0 to 1, or 255 for void"):
        named[0]
    write_semantic(tmp_path / "voc", values)
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    lists.mkdir()
    for name in ("dog", "cat"):
        (lists / f"{name}_train.txt").touch()
    assert open_examples("voc-semantic", tmp_path / "voc", "test").classes == ("background", "cat", "dog")


def test_more_classes_than_label_maps_hold(tmp_path: Path) -> None:
    """Values of 16 bits beyond void are refused: training would take 300 for 44."""
    values = np.zeros((6, 8), int)
    values[2, 2] = 300
    write_semantic(tmp_path, values)
    for name in ("a", "b"):
        save_values(tmp_path / "SegmentationClass" / f"{name}.png", values, bits=16)
    with pytest.raises(BadInputError, match=r"\.png: a pixel has the value 300, expected 0 to 254, or 255 for void"):
        open_examples("voc-semantic", tmp_path, "train")


def test_colours_are_refused(tmp_path: Path) -> None:
    """A label image of three colours does not say which class is meant; nor does one of another size."""
    write_semantic(tmp_path, np.zeros((6, 8), int), "one\n")
    save_image(tmp_path / "SegmentationClass" / "b.png", 6, 8)
    with pytest.raises(BadInputError, match=r"b\.png: colours \(RGB\), expected a palette or grey PNG"):
        open_examples("voc-semantic", tmp_path, "test")[0]
    save_values(tmp_path / "SegmentationClass" / "b.png", np.zeros((5, 8)))
    with pytest.raises(BadInputError, match=r"b\.jpg: 8 x 6 pixels .* expected 8 x 5 as annotated"):
        open_examples("voc-semantic", tmp_path, "test")[0]
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("../b\n")
    with pytest.raises(BadInputError, match=r"val\.txt: file name '\.\./b', expected one inside"):
        open_examples("voc-semantic", tmp_path, "test")


def test_black_and_white_and_grey_in_rgb(tmp_path: Path) -> None:
    """One bit, and three equal channels with or without opacity, are values."""
    values = np.arange(12).reshape(3, 4) % 2
    write_semantic(tmp_path, values, "grass\nstone\n")
    grey = Image.fromarray(values.astype(np.uint8))
    for image in (Image.fromarray(values.astype(bool)), grey.convert("RGB"), grey.convert("RGBA"), grey.convert("LA")):
        image.save(tmp_path / "SegmentationClass" / "b.png")
        np.testing.assert_array_equal(open_examples("voc-semantic", tmp_path, "test")[0][1], values)


def test_colours_of_cvat(tmp_path: Path) -> None:
    """labelmap.txt says what colours mean, also those of a palette; VOC's border is void; other colours are refused."""
    values = np.arange(12).reshape(3, 4) % 3
    write_semantic(tmp_path, values)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nroad:9,9,9::\nsky:::\n")
    colours = np.array([(9, 9, 9), voc_colour(1), (224, 224, 192)], np.uint8)
    Image.fromarray(colours[values]).save(tmp_path / "SegmentationClass" / "a.png")
    Image.fromarray(colours[values]).quantize(4).save(tmp_path / "SegmentationClass" / "b.png")
    for split in ("train", "test"):
        examples = open_examples("voc-semantic", tmp_path, split)
        assert examples.classes == ("road", "sky")
        np.testing.assert_array_equal(examples[0][1], np.where(values == 2, 255, values))
    Image.fromarray(np.full((3, 4, 3), 7, np.uint8)).save(tmp_path / "SegmentationClass" / "a.png")
    with pytest.raises(BadInputError, match=r"a\.png: a pixel of colour \[7, 7, 7\], expected one of labelmap\.txt"):
        open_examples("voc-semantic", tmp_path, "train")[0]
    (tmp_path / "labelmap.txt").write_text("road:9,9,900::\n")
    with pytest.raises(BadInputError, match=r"labelmap\.txt: road has colour '9,9,900', expected RED,GREEN,BLUE"):
        open_examples("voc-semantic", tmp_path, "train")


def test_colours_of_voc() -> None:
    """The devkit's first colours and its last."""
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {number: voc_colour(number) for number in expected} == expected


def test_more_annotations_for_training(tmp_path: Path) -> None:
    """trainaug.txt with SegmentationClassAug is what the papers train on; the test split stays VOC's."""
    write_semantic(tmp_path, np.zeros((6, 8), int), "one\ntwo\n")
    (tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("a\n")
    save_values(tmp_path / "SegmentationClassAug" / "a.png", np.ones((6, 8)))
    assert open_examples("voc-semantic", tmp_path, "train")[0][1].unique().tolist() == [1]
    assert open_examples("voc-semantic", tmp_path, "test")[0][1].unique().tolist() == [0]


def test_cityscapes_semantic(tmp_path: Path) -> None:
    """The 34 labels become the 19 that are evaluated, in the order of their numbers; the rest is void."""
    values = np.arange(36).reshape(4, 9)
    values.flat[34:] = 255
    save_image(tmp_path / "leftImg8bit" / "val" / "aa" / "aa_1_leftImg8bit.png", 4, 9)
    save_values(tmp_path / "gtFine" / "val" / "aa" / "aa_1_gtFine_labelIds.png", values)
    examples = open_examples("cityscapes-semantic", tmp_path, "test")
    labels = examples[0][1].ravel().tolist()
    assert len(examples.classes) == 19
    assert [labels[value] for value in EVALUATED] == list(range(19))
    assert {labels[value] for value in range(36) if value not in EVALUATED} == {255}
    assert examples.classes[labels[26]] == "car"
