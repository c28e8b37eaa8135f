"""Images with what is known of them, in the layouts of the benchmarks: `open_examples`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset

from moco.data.brightness import settle_white_level
from moco.data.decoding import WHITEST, decode
from moco.data.images import FileImages, PathTable
from moco.data.notes import Notes
from moco.errors import BadInputError
from moco.shapes import Image
from moco.transfer.cityscapes import open_instances, open_semantic
from moco.transfer.coco import open_coco, open_lvis
from moco.transfer.label_maps import open_voc_semantic
from moco.transfer.targets import Annotations, Kind, Rules, Skeleton, Target
from moco.transfer.voc import open_voc

Layout = Literal["voc", "voc-semantic", "coco", "coco-keypoints", "lvis", "cityscapes-instance", "cityscapes-semantic"]
Split = Literal["train", "test"]

LAYOUTS: dict[Layout, Callable[[Path, Split], Annotations]] = {
    "voc": open_voc,
    "voc-semantic": open_voc_semantic,
    "coco": lambda data, split: open_coco(data, split, "coco"),
    "coco-keypoints": lambda data, split: open_coco(data, split, "coco-keypoints"),
    "lvis": open_lvis,
    "cityscapes-instance": open_instances,
    "cityscapes-semantic": open_semantic,
}


class Examples(Dataset[tuple[Tensor, Target]]):
    """Images (3, H, W) of bytes, RGB, and their targets; both are read from the files when they are asked for."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations
        self.ids = [annotations.image_id(index) for index in range(len(annotations))]
        """The image_id of each image."""
        self.white_level: int | None = None
        """The value of 16-bit files that becomes white; None: the largest."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names: label k is classes[k - 1], in label maps classes[k]."""
        return self.annotations.classes

    @property
    def kind(self) -> Kind:
        """Return what is known of each image."""
        return self.annotations.kind

    @property
    def rules(self) -> Rules:
        """Return the benchmark that defines how predictions are scored."""
        return self.annotations.rules

    @property
    def keypoints(self) -> Skeleton | None:
        """Return names and pairs of the keypoints."""
        return self.annotations.skeleton

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Image, Target]:
        image, expected = self._decode(index, upright=True), self.annotations.size(index)
        found = tuple(image.shape[1:])
        if found != expected == found[::-1]:  # annotated before it was turned
            image = self._decode(index, upright=False)
        if tuple(image.shape[1:]) != expected:
            raise BadInputError(
                f"{self.annotations.path(index)}: {describe_size(found, expected)}: replace the image or correct the "
                f"annotation"
            )
        return image, self.annotations.target(index)

    def _decode(self, index: int, *, upright: bool) -> Image:
        return decode(self.annotations.path(index), self.white_level or WHITEST, upright=upright)

    def target(self, index: int) -> Target:
        """Return what is known of an image, without reading it."""
        return self.annotations.target(index)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, as annotated."""
        return self.annotations.size(index)

    def name(self, index: int) -> str:
        """Return the image's file."""
        return self.annotations.path(index)


def describe_size(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Describe how the size (H, W) of an image is not that of its annotation."""
    return (
        f"{found[1]} x {found[0]} pixels (upright by its EXIF tag), expected {expected[1]} x {expected[0]} as annotated"
    )


def settle_white(data: str | Path, given: int | None, train: Examples, test: Examples) -> int | None:
    """Settle which value of the images' 16-bit files becomes white, as for other sets, and return it."""
    root, notes = os.fsencode(Path(data)), Notes()
    names = (os.path.relpath(os.fsencode(train.name(index)), root) for index in range(len(train)))
    level = settle_white_level(FileImages(root, PathTable(names)), given, notes)
    notes.print(str(data), {})
    train.white_level = test.white_level = level
    return level


def files_of(data: str | Path, *parts: Examples) -> FileImages:
    """Return the files of all parts, images and annotations, each once, by their paths in the folder of the data."""
    root, names = os.fsencode(Path(data)), dict[bytes, None]()
    for examples in parts:
        names.update((os.fsencode(examples.name(index)), None) for index in range(len(examples)))
        sources = examples.annotations.sources
        names.update((sources[index], None) for index in range(len(sources)))
    return FileImages(root, PathTable(name.removeprefix(root + os.fsencode(os.sep)) for name in names))


def open_examples(layout: Layout, data: str | Path, split: Split) -> Examples:
    """Open the images of a split of a folder in one of the layouts (docs/transfer-data.md).

    Raises BadInputError naming the file that is missing or wrong, and what was expected.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise BadInputError(f"--data {data}: no such folder, expected one in the layout {layout}")
    return Examples(LAYOUTS[layout](folder, split))
