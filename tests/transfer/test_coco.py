"""COCO's and LVIS' layouts: ids, outlines, keypoints, and what is said of faulty files."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.errors import BadInputError
from moco.transfer.examples import Examples, open_examples
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


@pytest.mark.filterwarnings("ignore:.*no object has an outline")
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


NAN, INF = float("nan"), float("inf")


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
    r"images\[0\] has height tall, expected a finite whole number": first("height", "tall", "images"),
    r"images\[0\] has id \[7\], expected a whole number or text": first("id", [7], "images"),
    r"annotations\[0\] has iscrowd many, expected 0 or 1": first("iscrowd", "many"),
    r"annotation 1 has neither bbox nor segmentation": lambda whole: whole["annotations"][0].update(
        bbox=[], segmentation=None
    ),
    r"annotation 1 has a polygon with a corner that is not a number": first(
        "segmentation", [[2, 3, 6, NAN, 6, 8, 2, 8]]
    ),
    r"annotation 1 has a polygon with a corner that is not a number: correct": first(
        "segmentation", [[2, 3, 6, 3, 6, 8, 2, -INF]]
    ),
    r"annotation 1 has a polygon that is not a list": first("segmentation", [[2, 3, 6, 10**400, 6, 8, 2, 8]]),
    r"annotation 1 has run lengths of which one has more than 32 bits": first(
        "segmentation", {"size": [12, 16], "counts": "o" * 10_000}
    ),
    r"annotation 1: box .* is inverted or not of numbers": first("bbox", [2, 3, 1e30, 5]),
    r"annotations\[0\] has area large, expected a finite number": first("area", "large"),
    r"images\[0\]: an image of 20 x -5 pixels, expected 1 to": first("height", -5, "images"),
    r"images\[0\]: an image of 1e\+09 x 10 pixels, expected 1 to": first("width", 10**9, "images"),
    r"two entries with the same id": first("id", 3, "images"),
    r"file name '\.\./b\.png', expected one inside": first("file_name", "../b.png", "images"),
    r"file name '/etc/passwd', expected one inside": first("file_name", "/etc/passwd", "images"),
    r"file name 'a/\.\.\\\\b\.png', expected one inside": first("file_name", "a/..\\b.png", "images"),
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
    with pytest.raises(BadInputError, match="no folder val or val2017 or Val or images, expected the images"):
        open_examples("coco", tmp_path, "test")
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text("[" * 100000)
    with pytest.raises(BadInputError, match=r"instances_val\.json: cannot be read as JSON"):
        open_examples("coco", tmp_path, "test")
    write_coco(tmp_path, content(), prefix="person_keypoints")
    with pytest.raises(BadInputError, match="no category has keypoints"):
        open_examples("coco-keypoints", tmp_path, "test")


def opened(tmp_path: Path, whole: dict[str, Any]) -> Examples:
    """The test images of a file with these contents."""
    write_coco(tmp_path, content())
    write_json(tmp_path / "annotations" / "instances_val.json", whole)
    return open_examples("coco", tmp_path, "test")


SQUARE = np.zeros((12, 16), int)
SQUARE[3:8, 2:6] = 1
DRAWN = {
    "pairs": [[2, 3], [6, 3], [6, 8], [2, 8]],
    "pairs of several": [[[2, 3], [6, 3], [6, 8], [2, 8]]],
    "one flat list": [2, 3, 6, 3, 6, 8, 2, 8],
    "text": [["2", "3", "6", "3", "6", "8", "2", "8"]],
    "box": [[2, 3, 4, 5]],
    "corners": [2, 3, 6, 8],
}


@pytest.mark.parametrize("form", DRAWN)
def test_outlines_in_other_forms(tmp_path: Path, form: str) -> None:
    """Polygons as pairs or as one list, and the object's box as four numbers, are the same mask."""
    examples = opened(tmp_path, edited(first("segmentation", DRAWN[form])))
    np.testing.assert_array_equal(examples[1][1]["masks"][0], SQUARE)


NOTHING: dict[str, Any] = {
    "null": None, "empty": [], "an empty list": [[]], "a line": [[2, 3, 6, 8, 4, 5.5]], "two corners": [[2, 3, 9, 9]],
    "no pixel": {"size": [12, 16], "counts": [192]},
}  # fmt: skip


@pytest.mark.parametrize("form", NOTHING)
def test_objects_without_an_outline_are_counted(tmp_path: Path, form: str) -> None:
    """What cannot be drawn stays as a box, is said, and is never a mask that is true."""
    with pytest.warns(
        UserWarning, match=r"1 of 3 objects have no outline that can be drawn \(the first: annotation 1\)"
    ):
        examples = opened(tmp_path, edited(first("segmentation", NOTHING[form])))
    target = examples[1][1]
    assert (examples.kind, target["boxes"][0].tolist()) == ("instance", [2, 3, 6, 8])
    assert target["masks"].flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("outline", [*NOTHING.values(), None], ids=str)
def test_a_file_without_any_outline_is_told(tmp_path: Path, outline: Any) -> None:
    """A task of masks learns boxes then, which its name does not say."""
    whole = content()
    for annotation in whole["annotations"]:
        annotation.pop("segmentation")
        annotation |= {} if outline is None else {"segmentation": outline}
    with pytest.warns(UserWarning, match="no object has an outline that can be drawn: boxes alone are learned"):
        assert opened(tmp_path, whole).kind == "detection"


def test_a_file_of_two_images_is_told(tmp_path: Path) -> None:
    """Each has its own objects only, so those of the other would be mistakes of the detector."""
    whole = content()
    whole["images"].append({**whole["images"][0], "id": 999})
    with pytest.warns(UserWarning, match=r"1 of \d images name a file that another names too .*, ids \d+ and 999"):
        opened(tmp_path, whole)


def test_the_task_decides_what_is_learned(tmp_path: Path) -> None:
    """Masks of a file whose categories have keypoints, too."""
    whole = edited(first("keypoints", ["nose", "tail"], "categories"))
    examples = opened(tmp_path, whole)
    assert (examples.kind, examples.keypoints) == ("instance", None)
    np.testing.assert_array_equal(examples[1][1]["masks"][0], SQUARE)


def test_what_is_missing_is_found_elsewhere(tmp_path: Path) -> None:
    """A box around its outline, an area from the box, a size from the image; null is missing; text may be a number."""
    whole = content()
    whole["annotations"][0] |= {"bbox": None, "area": None, "iscrowd": None}
    whole["annotations"][1] |= {"bbox": [], "iscrowd": "1"}
    del whole["images"][0]["height"], whole["images"][1]["width"]
    target = opened(tmp_path, whole)[1][1]
    assert target["boxes"].tolist() == [[2, 3, 6, 8], [0, 0, 2, 2], [1, 1, 1, 3]]
    assert target["area"].tolist() == [20, 4, 0]
    assert target["iscrowd"].tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["img {}", "{:012d}", "1399292812312312{:04d}", "{}.0"])
def test_ids_of_any_form(tmp_path: Path, name: str) -> None:
    """Text, digits with zeros, numbers beyond 64 bits."""
    whole = content()
    for record in whole["images"]:
        record["id"] = name.format(record["id"])
    for record in whole["annotations"]:
        record |= {"image_id": name.format(record["image_id"]), "category_id": str(record["category_id"])}
    examples = opened(tmp_path, whole)
    assert (examples.classes, examples[1][1]["labels"].tolist()) == (("ant", "cat"), [2, 1, 1])
    assert len(examples[0][1]["labels"]) == 0


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    """Roboflow's files begin with a category that only groups the others."""
    whole = content()
    whole["categories"].append({"id": 0, "name": "cat"})
    examples = opened(tmp_path, whole)
    assert (examples.classes, examples[1][1]["labels"].tolist()) == (("cat", "ant"), [1, 2, 2])


def test_roboflow_keeps_annotations_beside_the_images(tmp_path: Path) -> None:
    """SPLIT/_annotations.coco.json."""
    for split in ("train", "valid"):
        write_json(tmp_path / split / "_annotations.coco.json", content())
        for image in content()["images"]:
            save_image(tmp_path / split / image["file_name"], image["height"], image["width"])
    examples = [open_examples("coco", tmp_path, split) for split in ("train", "test")]
    assert [Path(one.name(0)).parent.name for one in examples] == ["train", "valid"]


def test_cvat_has_one_file(tmp_path: Path) -> None:
    """Of instances_default.json a tenth is tested on, and that is said."""
    many = coco_content(1, images=21, size=(30, 40))
    write_json(tmp_path / "annotations" / "instances_default.json", many)
    for image in many["images"]:
        save_image(tmp_path / "images" / image["file_name"], 30, 40)
    with pytest.warns(UserWarning, match=r"instances_default\.json: annotations without splits: every tenth image"):
        train = open_examples("coco", tmp_path, "train")
    test = open_examples("coco", tmp_path, "test")
    assert [test.ids, len(train)] == [[50, 120, 190], 18]
    assert set(test.ids) | set(train.ids) == {image["id"] for image in many["images"]}
    for examples in (train, test):
        for index, image in enumerate(examples.ids):
            own = [one for one in many["annotations"] if one["image_id"] == image]
            assert len(examples.target(index)["labels"]) == len(own)


def test_labelme2coco_keeps_absolute_paths(tmp_path: Path) -> None:
    """train.json and val.json beside the images, which another machine had elsewhere."""
    for split in ("train", "val"):
        whole = content()
        for image in whole["images"]:
            image["file_name"] = f"/home/someone/labelme/{image['file_name']}"
            save_image(tmp_path / Path(image["file_name"]).relative_to("/home/someone/labelme"), 10, 20)
        write_json(tmp_path / f"{split}.json", whole)
    examples = open_examples("coco", tmp_path, "test")
    assert [examples.name(index) for index in range(2)] == [f"{tmp_path / name}" for name in ("b.png", "sub/a.png")]


def test_files_of_labelme_are_named(tmp_path: Path) -> None:
    """One JSON file an image is not COCO's format."""
    for name in ("a", "b"):
        write_json(tmp_path / f"{name}.json", {"version": "5.0", "shapes": []})
    with pytest.raises(BadInputError, match=r"the \.json files are labelme's, .* labelme2coco"):
        open_examples("coco", tmp_path, "train")


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
