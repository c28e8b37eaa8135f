"""The class of every pixel, from the values of label images; VOC's segmentation layout."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.files import Folder, read_lines
from moco.transfer.targets import VOID, LabelMap
from moco.transfer.value_maps import MappedImages, Values, read_values
from moco.transfer.voc import roots, split_lists


def classes_of(path: str, index: int, *, label_of: Values, classes: int) -> LabelMap:
    """The class of every pixel, `label_of` (65536,) being a class, VOID, or -1. Raises BadInputError for -1."""
    values = read_values(path)
    labels = label_of[values]
    if labels.min() < 0:
        unknown = int(values[labels < 0][0])
        raise BadInputError(
            f"{path}: a pixel has the value {unknown}, expected 0 to {classes - 1}, or {VOID} for void: "
            f"correct it, or name every class in classes.txt"
        )
    return torch.from_numpy(labels)


def label_maps(classes: tuple[str, ...], paths: PathTable, maps: PathTable, label_of: Values) -> MappedImages:
    """Images whose second images have a class in every pixel."""
    read = partial(classes_of, label_of=label_of, classes=len(classes))
    return MappedImages(paths, maps, classes, "semantic", "semantic", read)


def open_voc_semantic(data: Path, split: str) -> MappedImages:
    """The images of a split of VOC's segmentation layout.

    Class names come from classes.txt (one a line, from label 0 on); else from ImageSets/Main, whose lists are named
    after VOC's classes, and label 0 is the background; else classes are numbered up to the largest in any label image.
    trainaug.txt and SegmentationClassAug (VOC's images annotated by others) are used for training where they are.
    """
    folders = roots(data, "Segmentation")
    paths, maps = list[bytes](), list[bytes]()
    for listed in split_lists(folders, "Segmentation", split):
        root = listed.parents[2]
        more = listed.with_name("trainaug.txt")
        listed = more if split == "train" and more.is_file() else listed
        further = root / "SegmentationClassAug"
        labelled = further if listed == more and further.is_dir() else root / "SegmentationClass"
        images, labels = Folder(root / "JPEGImages", "VOC's images"), Folder(labelled, "VOC's label images")
        for name in read_lines(listed):
            paths.append(os.fsencode(images.find_image(name, listed)))
            maps.append(os.fsencode(labels.find(f"{name}.png", listed)))
    classes = _classes(folders)
    label_of = np.full(65536, -1)
    label_of[: len(classes)] = np.arange(len(classes))
    label_of[VOID] = VOID
    return label_maps(classes, PathTable(paths), PathTable(maps), label_of)


def _classes(folders: list[Path]) -> tuple[str, ...]:
    for folder in folders:
        if (folder / "classes.txt").is_file():
            names = tuple(read_lines(folder / "classes.txt"))
            if not 1 <= len(names) <= VOID:
                raise BadInputError(f"{folder / 'classes.txt'}: {len(names)} names, expected 1 to {VOID}, one a line")
            return names
    lists = [path.name for folder in folders for path in folder.glob("ImageSets/Main/*_train.txt")]
    named = {name.removesuffix("_train.txt") for name in lists}
    if named:
        return ("background", *sorted(named))
    largest = 0
    for folder in folders:
        for path in folder.glob("SegmentationClass/*.png"):
            values = read_values(str(path))
            largest = max(largest, int(values[values != VOID].max(initial=0)))
            if largest > VOID:
                raise BadInputError(
                    f"{path}: a pixel has the value {largest}, expected 0 to {VOID - 1}, or {VOID} for void"
                )
    return tuple(f"class {number}" for number in range(largest + 1))
