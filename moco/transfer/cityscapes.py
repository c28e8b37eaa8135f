"""Cityscapes' layout: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.files import is_system_path, require_folder
from moco.transfer.label_maps import label_maps
from moco.transfer.targets import VOID, Objects, empty_masks
from moco.transfer.value_maps import MappedImages, Values, read_values

EVALUATED = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""The numbers in label images of the classes that are evaluated, in the order of their training numbers."""
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
"""Those whose objects are labelled one by one: object k of class c has the value 1000 c + k, a group of them c."""
PER_CLASS = 1000
IMAGE, LABELS = "_leftImg8bit.png", "_gtFine_{}.png"


def objects_of(path: str, index: int) -> Objects:
    """Return the objects of an instance image; a group whose objects are not labelled one by one is a crowd."""
    values = read_values(path)
    found = [int(value) for value in np.unique(values) if label_of(int(value)) in THINGS]
    masks = empty_masks(*values.shape)
    boxes = np.zeros((len(found), 4), np.float32)
    if found:
        masks = torch.from_numpy(np.stack([values == value for value in found]).astype(np.uint8))
    for box, mask in zip(boxes, masks.numpy(), strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.tensor([1 + THINGS.index(label_of(value)) for value in found], dtype=torch.int64),
        "iscrowd": torch.tensor([value < PER_CLASS for value in found], dtype=torch.bool),
        "ignore": torch.zeros(len(found), dtype=torch.bool),
        "area": masks.sum((1, 2)).float(),
        "image_id": index,
        "masks": masks,
    }


def label_of(value: int) -> int:
    """Return the class of a value in an instance image."""
    return value // PER_CLASS if value >= PER_CLASS else value


def find_void(values: Values) -> npt.NDArray[np.bool_]:
    """Find the pixels of an instance image (H, W) that are not evaluated; the benchmark excludes single caravans."""
    return (values < PER_CLASS) & ~np.isin(values, list(EVALUATED))


def open_instances(data: Path, split: str) -> MappedImages:
    """Open the images of a split with the objects of the 8 classes whose objects are labelled one by one."""
    things = tuple(EVALUATED[label] for label in THINGS)
    return MappedImages(*_files(data, split, "instanceIds"), things, "cityscapes", "instance", objects_of)


def open_semantic(data: Path, split: str) -> MappedImages:
    """Open the images of a split with the 19 classes that are evaluated; all else is void."""
    paths, maps = _files(data, split, "labelIds")
    meaning = np.full(1 << 16, VOID)
    meaning[list(EVALUATED)] = np.arange(len(EVALUATED))
    return label_maps(tuple(EVALUATED.values()), paths, maps, meaning)


def _files(data: Path, split: str, what: str) -> tuple[PathTable, PathTable]:
    """The images of a split, val for test, and what belongs to each."""
    split = "val" if split == "test" else split
    folder = require_folder(data / "leftImg8bit" / split, "Cityscapes' images in a folder for each city")
    images = sorted(path for path in folder.glob(f"*/*{IMAGE}") if not is_system_path(path, folder))
    if not images:
        raise BadInputError(f"{folder}: no CITY/*{IMAGE} in it, expected Cityscapes' images")
    maps = [
        data / "gtFine" / split / image.parent.name / (image.name.removesuffix(IMAGE) + LABELS.format(what))
        for image in images
    ]
    for path in maps:
        if not path.is_file():
            raise BadInputError(
                f"{path}: no such file, expected what belongs to {path.name.split('_gtFine')[0]}{IMAGE}"
            )
    return PathTable(map(os.fsencode, images)), PathTable(map(os.fsencode, maps))
