"""VOC's layout: lists, XML, corners counted from 1, and what is said of faulty folders."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.errors import BadInputError
from moco.transfer.examples import open_examples
from moco.transfer.targets import for_training
from tests.transfer.layouts import Box, save_image, voc_xml, write_voc

CAT: Box = ("cat", 1, 1, 10, 20)


def test_real_cells(bccd: Path) -> None:
    """364 photographs, none of them in both splits; every object of the XML file is there."""
    train, test = open_examples("voc", bccd, "train"), open_examples("voc", bccd, "test")
    assert (len(train), len(test), train.kind) == (292, 72, "detection")
    assert train.classes == test.classes == ("Platelets", "RBC", "WBC")
    assert not {train.name(index) for index in range(292)} & {test.name(index) for index in range(72)}
    image, target = test[0]
    text = (bccd / "Annotations" / Path(test.name(0)).with_suffix(".xml").name).read_text()
    assert image.shape == (3, 480, 640)
    assert image.dtype == torch.uint8
    assert len(target["boxes"]) == text.count("<object>")
    assert int((target["labels"] == 2).sum()) == text.count("<name>RBC</name>")


def test_corners_and_marks(tmp_path: Path) -> None:
    """A box of pixels 1 to 10 is ten pixels wide from the image's edge on; difficult objects do not train."""
    xml = voc_xml([("dog", 5, 5, 6, 6), CAT, ("cat", 60, 40, 60, 40)], difficult=(0,))
    write_voc(tmp_path, {"a": xml, "b": voc_xml([])}, {"train": ["a"], "val": ["a", "b"]})
    examples = open_examples("voc", tmp_path, "test")
    assert (examples.classes, examples.rules, examples.ids) == (("cat", "dog"), "voc", [0, 1])
    image, target = examples[0]
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[4, 4, 6, 6], [0, 0, 10, 20], [59, 39, 60, 40]]
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["area"].tolist() == [4, 200, 1]
    assert target["ignore"].tolist() == [True, False, False]
    assert for_training(target)["labels"].tolist() == [1, 1]
    assert for_training(target)["image_id"] == 0
    assert examples[1][1]["boxes"].shape == (0, 4)


def test_two_years_and_their_splits(tmp_path: Path) -> None:
    """2007 is tested on its test list, and both years' trainval train; 2012 alone is tested on val and trains on train.

    Classes are the same in every split, also where one has no object of some class.
    """
    old, new = tmp_path / "VOCdevkit" / "VOC2007", tmp_path / "VOCdevkit" / "VOC2012"
    write_voc(old, {"1": voc_xml([CAT]), "2": voc_xml([CAT])}, {"trainval": ["1"], "test": ["2"]})
    files = {"3": voc_xml([("dog", 1, 1, 5, 5)]), "4": voc_xml([("ant", 1, 1, 5, 5)])}
    write_voc(new, files, {"train": ["3"], "val": ["4"], "trainval": ["3", "4"]})
    train, test = open_examples("voc", tmp_path, "train"), open_examples("voc", tmp_path, "test")
    assert [Path(train.name(index)).stem for index in range(len(train))] == ["1", "3", "4"]
    assert [Path(test.name(index)).stem for index in range(len(test))] == ["2"]
    assert train.classes == test.classes == ("ant", "cat", "dog")
    assert open_examples("voc", tmp_path / "VOCdevkit", "train").ids == train.ids
    alone = [Path(open_examples("voc", new, split).name(0)).stem for split in ("train", "test")]
    assert alone == ["3", "4"]


LINES = {
    "a mark": "\ufeffa\r\nb\r\n",
    "quotation marks": '"a"\n"b"\n',
    "two columns": "a  1\nb -1\n",
    "files": "JPEGImages/a.jpg Annotations/a.xml\nJPEGImages/b.jpg Annotations/b.xml\n",
    "an ending": "a.jpg\nb.JPG\n",
    "another machine": "/home/someone/VOC/JPEGImages/a.jpg\nC:\\data\\b.jpg\n",
}


@pytest.mark.parametrize("form", LINES)
def test_lines_of_lists(tmp_path: Path, form: str) -> None:
    """What tools write into lists beside the plain name."""
    write_voc(tmp_path, {name: voc_xml([CAT]) for name in "ab"}, {"test": ["a"]})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(LINES[form], encoding="utf-8")
    examples = open_examples("voc", tmp_path, "train")
    assert [Path(examples.name(index)).name for index in range(2)] == ["a.jpg", "b.jpg"]


def test_names_with_spaces_and_folders(tmp_path: Path) -> None:
    """Their XML files are found in the same folders, and so are the classes; files of macOS and of a NAS are none."""
    (tmp_path / "Annotations" / "day 1").mkdir(parents=True)
    write_voc(tmp_path, {"day 1/a b": voc_xml([CAT]), "c": voc_xml([CAT])}, {"train": ["day 1/a b"], "val": ["c"]})
    (tmp_path / "Annotations" / "day 1" / "only.xml").write_text(voc_xml([("dog", 1, 1, 9, 9)]))
    for other in ("._c.xml", "@eaDir/c.xml", "day 1/._a b.xml"):
        (tmp_path / "Annotations" / other).parent.mkdir(exist_ok=True)
        (tmp_path / "Annotations" / other).write_bytes(b"\0\5\x16\7")
    examples = open_examples("voc", tmp_path, "train")
    assert (examples.classes, len(examples)) == (("cat", "dog"), 1)


def test_lists_without_splits(tmp_path: Path) -> None:
    """CVAT's default.txt, or no list at all: a tenth is tested on, and that is said."""
    names = [f"{number:02d}" for number in range(12)]
    write_voc(tmp_path, {name: voc_xml([CAT]) for name in names}, {"default": names})
    for _ in range(2):
        with pytest.warns(UserWarning, match="no lists of splits: every tenth image is tested on"):
            train = open_examples("voc", tmp_path, "train")
        test = open_examples("voc", tmp_path, "test")
        assert [Path(test.name(index)).stem for index in range(len(test))] == ["00", "10"]
        assert len(train) == 10
        shutil.rmtree(tmp_path / "ImageSets", ignore_errors=True)


def test_roboflow_keeps_xml_beside_the_images(tmp_path: Path) -> None:
    """train, valid and maybe test, each with images and XML files."""
    for split, kind in (("train", "cat"), ("valid", "dog")):
        save_image(tmp_path / split / "a.rf.5.jpg", 40, 60)
        (tmp_path / split / "a.rf.5.xml").write_text(voc_xml([(kind, 1, 1, 9, 9)]))
    examples = [open_examples("voc", tmp_path, split) for split in ("train", "test")]
    assert [one.target(0)["labels"].tolist() for one in examples] == [[1], [2]]
    assert examples[0].classes == ("cat", "dog")


def test_xml_in_other_encodings(tmp_path: Path) -> None:
    """Several bytes a character, as the declaration says; a polygon alone is an object with the box around it."""
    polygon = "<polygon><x1>2</x1><y1>3</y1><x2>9</x2><y2>3</y2><x3>5</x3><y3>8</y3></polygon>"
    xml = re.sub("<bndbox>.*</bndbox>", polygon, voc_xml([("猫", 1, 1, 9, 9)]))
    write_voc(tmp_path, {"a": xml}, {"train": ["a"]})
    for encoding in ("gbk", "shift_jis", "utf-16"):
        text = f'<?xml version="1.0" encoding="{encoding}"?>{xml}'
        (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
        examples = open_examples("voc", tmp_path, "train")
        assert (examples.classes, examples.target(0)["boxes"].tolist()) == (("猫",), [[1, 2, 9, 8]])
    (tmp_path / "Annotations" / "a.xml").write_text(f'<?xml version="1.0" encoding="rot13"?>{xml}')
    with pytest.raises(BadInputError, match=r"a\.xml: cannot be read as XML"):
        open_examples("voc", tmp_path, "train")


ENTITY = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
FAULTY_XML = {
    "<annotation><object>": r"a\.xml: cannot be read as XML",
    ENTITY: r"a\.xml: declares a document type",
    voc_xml([("cat", 30, 1, 10, 20)]): r"a\.xml: box .*\(29, 0, 10, 20\) is inverted",
    voc_xml([("cat", 70, 1, 90, 20)]): r"a\.xml: box .* is outside its image of 60 x 40 pixels",
    voc_xml([CAT]).replace("<xmin>1<", "<xmin>nan<"): r"a\.xml: xmin is 'nan', expected a number",
    voc_xml([CAT], 1 + 10**30): r"a\.xml: an image of 60 x 1e\+30 pixels, expected 1 to 1000000",
    voc_xml([CAT]).replace("<xmax>10<", "<xmax>1e30<"): r"a\.xml: box .* is inverted or not of numbers",
    voc_xml([CAT]).replace("bndbox", "box"): r"a\.xml: an object without name or bndbox",
}


@pytest.mark.parametrize("xml", FAULTY_XML)
def test_faulty_xml_is_named(tmp_path: Path, xml: str) -> None:
    """One line with the file and what is wrong in it; entities are not expanded."""
    write_voc(tmp_path, {"a": xml, "b": voc_xml([CAT])}, {"train": ["a"], "test": ["b"]})
    with pytest.raises(BadInputError, match=FAULTY_XML[xml]):
        open_examples("voc", tmp_path, "train")


def test_faulty_folders_are_named(tmp_path: Path) -> None:
    """What is missing, and which file asked for it."""
    with pytest.raises(BadInputError, match="no ImageSets/Main in it"):
        open_examples("voc", tmp_path, "train")
    with pytest.raises(BadInputError, match="nowhere: no such folder, expected one in the layout voc"):
        open_examples("voc", tmp_path / "nowhere", "train")
    write_voc(tmp_path, {"a": voc_xml([CAT])}, {"train": ["a", "missing"]})
    with pytest.raises(BadInputError, match=r"missing\.jpg: no such image, and .*train\.txt names it"):
        open_examples("voc", tmp_path, "train")
    with pytest.raises(BadInputError, match=r"no val\.txt and no valid\.txt and no validation\.txt, expected lists"):
        open_examples("voc", tmp_path, "test")
    for name in ("../a", "/etc/passwd", "..", r"C:\b", "a\x1b[2J"):
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(f"{name}\n")
        with pytest.raises(BadInputError, match=r"train\.txt: file name .* expected one inside the folder of images"):
            open_examples("voc", tmp_path, "train")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    shutil.rmtree(tmp_path / "Annotations")
    with pytest.raises(BadInputError, match="Annotations: no such folder, expected PASCAL VOC's XML files"):
        open_examples("voc", tmp_path, "train")


def test_boxes_that_reach_beyond(tmp_path: Path) -> None:
    """One or two pixels are rounding; more is warned of once, for all of them."""
    boxes = [("cat", 0, 0, 61, 42), ("cat", 30, 10, 70, 20)]
    write_voc(tmp_path, {"a": voc_xml(boxes)}, {"train": ["a"]})
    with pytest.warns(UserWarning, match=r"1 of 2 boxes reach beyond their images, the first in .*a\.xml"):
        open_examples("voc", tmp_path, "train")


def test_all_kinds_of_images(tmp_path: Path) -> None:
    """Grey, 16 bits, turned by an EXIF tag, without a size in the XML; of another size than the XML says."""
    names = ("grey", "deep", "turned")
    plain = voc_xml([CAT]).replace("<size><width>60</width><height>40</height></size>", "")
    write_voc(tmp_path, dict.fromkeys(names, plain), {"train": names})
    folder = tmp_path / "JPEGImages"
    for name in names[1:]:
        (folder / f"{name}.jpg").unlink()
    save_image(folder / "grey.jpg", 40, 60, "L")
    Image.fromarray(np.full((40, 60), 32768, np.uint16)).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((60, 40, 3), np.uint8)).save(folder / "turned.JPG", "JPEG", exif=exif)
    examples = open_examples("voc", tmp_path, "train")
    assert [tuple(examples[index][0].shape) for index in range(3)] == [(3, 40, 60)] * 3
    assert set(examples[1][0].ravel().tolist()) == {128}
    write_voc(tmp_path, {"grey": voc_xml([CAT], 30, 60)}, {"train": ["grey"]})
    with pytest.raises(BadInputError, match=r"grey\.jpg: 60 x 40 pixels .*, expected 60 x 30 as annotated"):
        open_examples("voc", tmp_path, "train")[0]
