"""The class of every pixel, from the values of label images; VOC's segmentation layout."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from moco.data.images import PathTable
from moco.errors import BadInputError, quote
from moco.transfer.files import Folder, is_system_name, is_system_path, read_lines
from moco.transfer.targets import VOID, LabelMap
from moco.transfer.value_maps import Colours, MappedImages, Values, read_values
from moco.transfer.voc_files import VocList, name_below, roots, split_lists

BORDER = (224, 224, 192)
"""VOC's colour of what belongs to no class."""


def classes_of(path: str, index: int, *, label_of: Values, classes: int, colours: Colours | None = None) -> LabelMap:
    """Return the class of every pixel, `label_of` (65536,) being a class, VOID, or -1. Raises BadInputError for -1."""
    values = read_values(path, colours)
    labels = label_of[values]
    if labels.min() < 0:
        unknown = int(values[labels < 0][0])
        counts = ", ".join(
            f"{value} ({count})" for value, count in zip(*np.unique(values, return_counts=True), strict=True)
        )
        raise BadInputError(
            f"{path}: a pixel has the value {unknown}, expected 0 to {classes - 1}, or {VOID} for void: "
            f"correct it, or name every class in classes.txt (values of the image and their pixels: {counts[:200]})"
        )
    return torch.from_numpy(labels)


def label_maps(
    classes: tuple[str, ...], paths: PathTable, maps: PathTable, label_of: Values, colours: Colours | None = None
) -> MappedImages:
    """Return images whose second images have a class in every pixel."""
    read = partial(classes_of, label_of=label_of, classes=len(classes), colours=colours)
    return MappedImages(paths, maps, classes, "semantic", "semantic", read, colours=colours)


def open_voc_semantic(data: Path, split: str) -> MappedImages:
    """Open the images of a split of VOC's segmentation layout.

    Class names come from labelmap.txt (CVAT's, with the colour of each); else from classes.txt (one a line, from label
    0 on); else from ImageSets/Main, whose lists are named after VOC's classes, and label 0 is the background; else
    classes are numbered up to the largest in any label image.
    trainaug.txt and SegmentationClassAug (VOC's images annotated by others) are used for training where they are.
    """
    folders = roots(data, "Segmentation")
    paths, maps = list[bytes](), list[bytes]()
    for listed in split_lists(folders, "Segmentation", split):
        more = listed.path.with_name("trainaug.txt")
        augmented = split == "train" and more.is_file()
        listed = VocList(more) if augmented else listed
        further = listed.root / "SegmentationClassAug"
        labelled = further if augmented and further.is_dir() else listed.root / "SegmentationClass"
        images, labels = Folder(listed.root / "JPEGImages", "VOC's images"), Folder(labelled, "VOC's label images")
        for line in listed.lines(split):
            path = images.find_image(line, listed.path)
            paths.append(os.fsencode(path))
            maps.append(os.fsencode(labels.find(f"{name_below(path, images)}.png", listed.path)))
    classes, colours = _classes(folders)
    label_of = np.full(65536, -1)
    label_of[: len(classes)] = np.arange(len(classes))
    label_of[VOID] = VOID
    return label_maps(classes, PathTable(paths), PathTable(maps), label_of, colours)


def _classes(folders: list[Path]) -> tuple[tuple[str, ...], Colours | None]:
    """The names of the classes and, where a file tells them, their colours."""
    for folder in folders:
        if (folder / "labelmap.txt").is_file():
            return _read_label_map(folder / "labelmap.txt")
        if (folder / "classes.txt").is_file():
            names = tuple(read_lines(folder / "classes.txt"))
            _check_count(len(names), folder / "classes.txt")
            return names, None
    lists = [path.name for folder in folders for path in folder.glob("ImageSets/Main/*_train.txt")]
    named = {name.removesuffix("_train.txt") for name in lists if not is_system_name(name)}
    if named:
        return ("background", *sorted(named)), None
    largest = 0
    for folder in folders:
        for path in sorted((folder / "SegmentationClass").rglob("*.png")):
            if is_system_path(path, folder):
                continue
            values = read_values(str(path))
            largest = max(largest, int(values[values != VOID].max(initial=0)))
            if largest > VOID:
                raise BadInputError(
                    f"{path}: a pixel has the value {largest}, expected 0 to {VOID - 1}, or {VOID} for void"
                )
    return tuple(f"class {number}" for number in range(largest + 1)), None


def _check_count(count: int, path: Path) -> None:
    if not 1 <= count <= VOID:
        raise BadInputError(f"{path}: {count} names, expected 1 to {VOID}, one a line")


def _read_label_map(path: Path) -> tuple[tuple[str, ...], Colours]:
    """CVAT's lines NAME:RED,GREEN,BLUE:PARTS:ACTIONS; a class without a colour has VOC's for its number."""
    rows = [line.split(":") for line in read_lines(path) if not line.startswith("#")]
    _check_count(len(rows), path)
    colours = {BORDER: VOID}
    for number, row in enumerate(rows):
        text = row[1].strip() if len(row) > 1 else ""
        numbers = [part.strip() for part in text.split(",")] if text else list(map(str, voc_colour(number)))
        if len(numbers) != 3 or not all(part.isascii() and part.isdigit() and int(part[:4]) <= 255 for part in numbers):
            raise BadInputError(f"{path}: {row[0]} has colour {quote(text)}, expected RED,GREEN,BLUE from 0 to 255")
        red, green, blue = (int(part) for part in numbers)
        colours[red, green, blue] = number
    return tuple(row[0].strip() for row in rows), colours


def voc_colour(number: int) -> tuple[int, int, int]:
    """Return VOC's colour of a class: its bits 0, 3, 6 ... fill red from the top, 1, 4 ... green, 2, 5 ... blue."""
    red, green, blue = (
        sum((number >> 3 * place + channel & 1) << 7 - place for place in range(8)) for channel in range(3)
    )
    return red, green, blue
