"""Cityscapes' objects."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from moco.errors import BadInputError
from moco.transfer.examples import open_examples
from tests.transfer.layouts import save_image, save_values

Values = npt.NDArray[np.int64]


def write_city(root: Path, images: list[Values]) -> None:
    """A Cityscapes folder of instance images."""
    for number, values in enumerate(images):
        save_image(root / "leftImg8bit" / "val" / "aa" / f"aa_{number}_leftImg8bit.png", *values.shape)
        save_values(root / "gtFine" / "val" / "aa" / f"aa_{number}_gtFine_instanceIds.png", values, bits=16)


def test_objects(tmp_path: Path) -> None:
    """Objects of the eight classes with their boxes; groups are crowds; all else is background."""
    values = np.full((20, 30), 7)
    values[2:6, 3:10], values[8:12, 20:30], values[15:, :5], values[15:, 10:12] = 26001, 24000, 33, 29003
    write_city(tmp_path, [values, np.full((20, 30), 7)])
    examples = open_examples("cityscapes-instance", tmp_path, "test")
    image, target = examples[0]
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[0, 15, 5, 20], [20, 8, 30, 12], [3, 2, 10, 6]]
    assert [examples.classes[label - 1] for label in target["labels"]] == ["bicycle", "person", "car"]
    assert target["iscrowd"].tolist() == [True, False, False]
    assert target["area"].tolist() == target["masks"].sum((1, 2)).tolist() == [25, 40, 28]
    assert examples[1][1]["masks"].shape == (0, 20, 30)


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    """An image without its instance image; a folder without images."""
    write_city(tmp_path, [np.full((20, 30), 7)])
    (tmp_path / "gtFine" / "val" / "aa" / "aa_0_gtFine_instanceIds.png").unlink()
    with pytest.raises(BadInputError, match=r"aa_0_gtFine_instanceIds\.png: no such file"):
        open_examples("cityscapes-instance", tmp_path, "test")
    with pytest.raises(BadInputError, match="leftImg8bit/train: no such folder"):
        open_examples("cityscapes-instance", tmp_path, "train")


def test_system_files_are_no_images(tmp_path: Path) -> None:
    """What macOS and a NAS leave beside the images has no annotations, and needs none."""
    save_image(tmp_path / "leftImg8bit" / "val" / "aa" / "aa_1_leftImg8bit.png", 4, 9)
    save_values(tmp_path / "gtFine" / "val" / "aa" / "aa_1_gtFine_labelIds.png", np.full((4, 9), 7))
    for other in (
        "aa/._aa_1_leftImg8bit.png", "@eaDir/aa_1_leftImg8bit.png", "#recycle/aa_1_leftImg8bit.png",
        ".ipynb_checkpoints/aa_1_leftImg8bit.png",
    ):  # fmt: skip
        path = tmp_path / "leftImg8bit" / "val" / other
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    assert len(open_examples("cityscapes-semantic", tmp_path, "test")) == 1
