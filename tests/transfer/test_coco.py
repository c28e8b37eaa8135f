"""COCO's and LVIS' layouts: ids, outlines, keypoints, and what is said of faulty files."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.errors import BadInputError
from moco.transfer.examples import open_examples
from moco.transfer.targets import for_training
from tests.transfer.layouts import coco_content, save_image, write_coco, write_json

pytest.importorskip("faster_coco_eval")

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.png", "height": 10, "width": 20},
        {"id": 3, "file_name": "sub/a.png", "height": 12, "width": 16},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 30, "bbox": [2, 3, 4, 5], "area": 20, "iscrowd": 0,
         "segmentation": [[2, 3, 6, 3, 6, 8, 2, 8]]},
        {"id": 2, "image_id": 3, "category_id": 4, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 1,
         "segmentation": {"size": [12, 16], "counts": [0, 2, 10, 2, 178]}},
        {"id": 5, "image_id": 3, "category_id": 4, "bbox": [1, 1, 0, 2], "area": 0, "iscrowd": 0,
         "segmentation": [[1, 1, 1, 3, 1, 1]]},
    ],
    "categories": [{"id": 30, "name": "cat"}, {"id": 4, "name": "ant"}],
}  # fmt: skip


def content() -> dict[str, Any]:
    """Two images, three objects, one of them a crowd, one without width."""
    return copy.deepcopy(CONTENT)


def test_ids_become_labels(tmp_path: Path) -> None:
    """Classes are numbered from 1 in the order of their ids; objects go to their images; an empty image stays."""
    write_coco(tmp_path, content())
    examples = open_examples("coco", tmp_path, "test")
    assert (examples.classes, examples.kind, examples.ids) == (("ant", "cat"), "instance", [7, 3])
    assert examples[0][1]["masks"].shape == (0, 10, 20)
    image, target = examples[1]
    assert image.shape == (3, 12, 16)
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["boxes"].tolist() == [[2, 3, 6, 8], [0, 0, 2, 2], [1, 1, 1, 3]]
    assert target["area"].tolist() == [20, 4, 0]
    assert target["iscrowd"].tolist() == [False, True, False]
    expected = np.zeros((2, 12, 16))
    expected[0, 3:8, 2:6] = expected[1, :2, :2] = 1
    np.testing.assert_array_equal(target["masks"][:2], expected)
    assert for_training(target)["labels"].tolist() == [2]
    assert len(for_training(target)["masks"]) == 1


def test_boxes_alone(tmp_path: Path) -> None:
    """Where no object has an outline there are boxes only; folders may be train2017 and the like."""
    without = content()
    for annotation in without["annotations"]:
        annotation["segmentation"] = []
    write_json(tmp_path / "annotations" / "instances_train2017.json", without)
    for image in without["images"]:
        save_image(tmp_path / "train2017" / image["file_name"], image["height"], image["width"])
    examples = open_examples("coco", tmp_path, "train")
    assert examples.kind == "detection"
    assert "masks" not in examples[1][1]


def edited(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The content with one fault."""
    faulty = content()
    change(faulty)
    return faulty


def first(key: str, value: Any, what: str = "annotations") -> Callable[[dict[str, Any]], None]:
    """A change of one field of the first record."""
    return lambda whole: whole[what][0].__setitem__(key, value)


FAULTS = {
    r"annotation has category_id 5, which the file does not define": first("category_id", 5),
    r"annotation has image_id 4, which the file does not define": first("image_id", 4),
    r"annotation 1: box .*\(2, 3, -2, 8\) is inverted": first("bbox", [2, 3, -4, 5]),
    r"annotation 1: box .* is outside its image of 16 x 12": first("bbox", [17, 3, 4, 5]),
    r"annotations\[0\] has bbox \[2, 3\], expected 4 finite numbers": first("bbox", [2, 3]),
    r"annotations\[0\] has bbox .*Infinity|inf.*, expected 4 finite": first("bbox", [2, 3, 4, float("inf")]),
    r"annotation 1 has run lengths that do not add up": first("segmentation", {"size": [12, 16], "counts": [5, 9]}),
    r"annotation 1 has run lengths of size \[3, 4\]": first("segmentation", {"size": [3, 4], "counts": [12]}),
    r"annotation 1 has a polygon with an odd number": first("segmentation", [[1, 2, 3, 4, 5, 6, 7]]),
    r"annotation 1 has a polygon with a corner far outside": first("segmentation", [[1, 2, 3, 4, 5e9, 6]]),
    r"annotation 1 has a segmentation that is neither": first("segmentation", "polygon"),
    r"annotation 1 has ": first("segmentation", [["a"] * 6]),
    r"images\[0\] has height None, expected a finite whole number": first("height", None, "images"),
    r"images\[0\] has id 1000.*, expected a finite whole number": first("id", 10**400, "images"),
    r"annotations\[0\] has area large, expected a finite number": first("area", "large"),
    r"an image without height or width": first("height", 0, "images"),
    r"two entries with the same id": first("id", 3, "images"),
    r"file name '\.\./b\.png', expected one inside": first("file_name", "../b.png", "images"),
    r"file name '/b\.png', expected one inside": first("file_name", "/b.png", "images"),
    r"file name 5, expected one inside": first("file_name", 5, "images"),
    r"c\.png: no such file, and .*instances_val\.json names it": first("file_name", "c.png", "images"),
    r"a category without name": first("name", None, "categories"),
    r"no list of objects under 'annotations'": lambda whole: whole.pop("annotations"),
    r"no list of objects under 'images'": lambda whole: whole.__setitem__("images", {"a": 1}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files_are_named(tmp_path: Path, fault: str) -> None:
    """One line with the file, the entry and what was expected."""
    write_coco(tmp_path, content())
    write_json(tmp_path / "annotations" / "instances_val.json", edited(FAULTS[fault]))
    with pytest.raises(BadInputError, match=fault) as caught:
        open_examples("coco", tmp_path, "test")
    assert "instances_val.json" in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """No JSON file, a broken one, no images, nothing with keypoints."""
    with pytest.raises(
        BadInputError, match=r"instances_val2017\.json: no such file, expected it or one of instances_val"
    ):
        open_examples("coco", tmp_path, "test")
    write_json(tmp_path / "annotations" / "instances_val.json", content())
    with pytest.raises(BadInputError, match="no folder val or val2017, expected the images"):
        open_examples("coco", tmp_path, "test")
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text("[" * 100000)
    with pytest.raises(BadInputError, match=r"instances_val\.json: cannot be read as JSON"):
        open_examples("coco", tmp_path, "test")
    write_coco(tmp_path, content(), prefix="person_keypoints")
    with pytest.raises(BadInputError, match="no category has keypoints"):
        open_examples("coco-keypoints", tmp_path, "test")


def test_keypoints_lie_in_the_middle_of_pixels(tmp_path: Path) -> None:
    """Annotated ones are moved by half a pixel, absent ones stay 0; a person without any has zeros."""
    people = content()
    people["categories"] = [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]
    for annotation in people["annotations"]:
        annotation["category_id"] = 1
    people["annotations"][0] |= {"keypoints": [3, 4, 2, 0, 0, 0, 5, 6, 1], "num_keypoints": 2}
    write_coco(tmp_path, people, prefix="person_keypoints")
    examples = open_examples("coco-keypoints", tmp_path, "test")
    assert examples.keypoints is not None
    assert examples.keypoints.pairs == ((1, 2),)
    keypoints = examples[1][1]["keypoints"]
    assert keypoints[0].tolist() == [[3.5, 4.5, 2], [0, 0, 0], [5.5, 6.5, 1]]
    assert not keypoints[1].any()


def test_lvis_finds_coco_images(tmp_path: Path) -> None:
    """By the URL (v1), also in the other split's folder, or by the name of 2014 (v0.5)."""
    lvis = content()
    for category in lvis["categories"]:
        category["frequency"] = "f"
    for image in lvis["images"]:
        image |= {"neg_category_ids": [30], "not_exhaustive_category_ids": [4]}
    lvis["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/b.png"
    lvis["images"][1]["file_name"] = "COCO_val2014_a.png"
    write_json(tmp_path / "annotations" / "lvis_v0.5_val.json", lvis)
    save_image(tmp_path / "train2017" / "b.png", 10, 20)
    save_image(tmp_path / "val2017" / "a.png", 12, 16)
    examples = open_examples("lvis", tmp_path, "test")
    assert [Path(examples.name(index)).parent.name for index in range(2)] == ["train2017", "val2017"]
    assert examples[1][1]["masks"].shape == (3, 12, 16)
    lvis["images"][0]["neg_category_ids"] = [31]
    write_json(tmp_path / "annotations" / "lvis_v0.5_val.json", lvis)
    with pytest.raises(BadInputError, match="neg_category_ids 31, which the file does not define"):
        open_examples("lvis", tmp_path, "test")


@pytest.mark.slow
def test_many_annotations_take_seconds(tmp_path: Path) -> None:
    """50,000 objects are read once, in seconds, and those of an image are then there at once."""
    many = coco_content(0, images=1000, size=(100, 100))
    some = many["annotations"]
    many["annotations"] = [one | {"id": number} for number, one in enumerate((some * 20)[:50_000])]
    write_coco(tmp_path, many)
    start = time.process_time()
    examples = open_examples("coco", tmp_path, "test")
    assert time.process_time() - start < 30
    assert sum(len(examples.target(index)["boxes"]) for index in range(5)) > 100
