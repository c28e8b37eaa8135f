"""The class of every pixel, from the values of label images; VOC's segmentation layout."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.files import Folder, read_lines
from moco.transfer.targets import VOID, Kind, LabelMap, Rules, Skeleton
from moco.transfer.voc import roots, size_of, split_lists

Table = npt.NDArray[np.int64]


@dataclass
class LabelMaps:
    """Images and, for each, a second image whose pixels are classes."""

    classes: tuple[str, ...]
    paths: PathTable
    maps: PathTable
    label_of: Table
    """(65536,): what each value in a file means: a class, VOID, or -1 for nothing."""
    rules: Rules = "semantic"
    kind: Kind = "semantic"
    skeleton: Skeleton | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """The image's file."""
        return self.paths.name(index)

    def image_id(self, index: int) -> int:
        """The image's place in the list."""
        return index

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the label image, from its header."""
        return size_of(self.maps.name(index))

    def target(self, index: int) -> LabelMap:
        """The class of every pixel. Raises BadInputError for a value that means none."""
        path = self.maps.name(index)
        values = read_values(path)
        labels = self.label_of[values]
        if labels.min() < 0:
            unknown = int(values[labels < 0][0])
            raise BadInputError(
                f"{path}: a pixel has the value {unknown}, expected 0 to {len(self.classes) - 1}, or {VOID} for void: "
                f"correct it, or name every class in classes.txt"
            )
        return torch.from_numpy(labels)


def read_values(path: str) -> Table:
    """The values (H, W) of a palette or grey image, of 8 or 16 bits: not its colours."""
    try:
        with PillowImage.open(path, formats=("PNG",)) as image:
            if image.mode in ("P", "L") or image.mode.startswith("I"):
                return np.asarray(image).astype(np.int64).clip(0, 65535)
            mode = image.mode
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"{path}: cannot be read as a PNG ({error}): replace it") from error
    raise BadInputError(f"{path}: colours ({mode}), expected a palette or grey PNG whose values are classes")


def open_voc_semantic(data: Path, split: str) -> LabelMaps:
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
    return LabelMaps(classes, PathTable(paths), PathTable(maps), label_of)


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
    return tuple(f"class {number}" for number in range(largest + 1))
