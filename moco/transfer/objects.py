"""Annotated objects of many images in flat arrays: what VOC, COCO and LVIS files say once they are read."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.outlines import draw_masks
from moco.transfer.targets import Kind, Objects, Rules, Skeleton, empty_masks

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MOST_SIDE = 10**6
"""Pixels of the longest side of an image that can be annotated, and of a box's distance from it."""
ROUNDING = 2.0
"""Pixels that a box may reach beyond its image without a warning."""


@dataclass(frozen=True)
class Federation:
    """LVIS: in an image only some classes were looked for, and not all of each."""

    absent: tuple[tuple[int, ...], ...]
    """For each image the classes (from 1) that are known not to be in it ..."""
    incomplete: tuple[tuple[int, ...], ...]
    """... and those of which not every object is annotated."""
    frequency: tuple[str, ...]
    """For each class r, c or f: rare, common or frequent in the training images."""


@dataclass
class ObjectTable:
    """The objects of n images in the order of the images; N objects in all."""

    rules: Rules
    kind: Kind
    classes: tuple[str, ...]
    paths: PathTable
    image_ids: Integers
    sizes: Integers
    """(n, 2): height and width."""
    ends: Integers
    """(n + 1,): image i has the objects from ends[i] to ends[i + 1]."""
    boxes: Floats
    """(N, 4): x1 y1 x2 y2."""
    labels: Integers
    iscrowd: Flags
    ignore: Flags
    area: Floats
    outlines: PathTable | None = None
    """One string of bytes per object, made by `pack_outline`; empty without an outline."""
    keypoints: Floats | None = None
    """(N, P, 3): x, y from 0 to the image's size, and 0 not annotated, 1 hidden, 2 visible."""
    skeleton: Skeleton | None = None
    federation: Federation | None = None
    sources: PathTable = field(default_factory=lambda: PathTable(()))
    """The files that were read, beside the images."""

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Return the image's file."""
        return self.paths.name(index)

    def image_id(self, index: int) -> int:
        """Return the image's number in the annotations, or its place in the list."""
        return int(self.image_ids[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of the image, as annotated."""
        height, width = self.sizes[index].tolist()
        return height, width

    def rows(self, index: int) -> slice:
        """Return the objects of an image."""
        return slice(int(self.ends[index]), int(self.ends[index + 1]))

    def target(self, index: int) -> Objects:
        """Return the objects of an image, in torchvision's convention."""
        rows = self.rows(index)
        target: Objects = {
            "boxes": torch.from_numpy(self.boxes[rows].astype(np.float32)),
            "labels": torch.from_numpy(self.labels[rows].copy()),
            "iscrowd": torch.from_numpy(self.iscrowd[rows].copy()),
            "ignore": torch.from_numpy(self.ignore[rows].copy()),
            "area": torch.from_numpy(self.area[rows].astype(np.float32)),
            "image_id": self.image_id(index),
        }
        if self.outlines is not None:
            packed = [self.outlines[row] for row in range(rows.start, rows.stop)]
            size = self.size(index)
            target["masks"] = torch.from_numpy(draw_masks(packed, size)) if packed else empty_masks(*size)
        if self.keypoints is not None:
            target["keypoints"] = torch.from_numpy(self.keypoints[rows].astype(np.float32))
        return target


def check_sizes(sizes: npt.NDArray[Any], where: Callable[[int], str]) -> Integers:
    """Heights and widths (n, 2) as whole numbers. Raises BadInputError for the first that cannot be an image's."""
    wrong = np.flatnonzero(~((sizes >= 1) & (sizes <= MOST_SIDE)).all(1))
    if len(wrong):
        height, width = sizes[wrong[0]].tolist()
        raise BadInputError(
            f"{where(int(wrong[0]))}: an image of {width:g} x {height:g} pixels, expected 1 to {MOST_SIDE} each: "
            f"correct it"
        )
    return np.asarray(sizes.astype(np.int64))


def check_boxes(boxes: Floats, sizes: Integers, where: Callable[[int], str], source: object) -> None:
    """Raise BadInputError for the first box (N, 4) that is inverted or outside its image, of (N, 2) height and width.

    Boxes that reach beyond their image stay as they are; many of them by much are warned of.
    """
    width, height = sizes[:, 1], sizes[:, 0]
    x1, y1, x2, y2 = boxes.T
    right_way = (np.abs(boxes) <= 2 * MOST_SIDE).all(1) & (x2 >= x1) & (y2 >= y1)
    touching = (x1 <= width) & (y1 <= height) & (x2 >= 0) & (y2 >= 0)
    wrong = np.flatnonzero(~(right_way & touching))
    if len(wrong):
        row = int(wrong[0])
        fault = "outside its image" if right_way[row] else "inverted or not of numbers"
        box = ", ".join(f"{value:g}" for value in boxes[row])
        raise BadInputError(
            f"{where(row)}: box from x, y to x, y ({box}) is {fault} of {width[row]} x {height[row]} pixels: "
            f"correct or remove it"
        )
    beyond = np.maximum.reduce([-x1, -y1, x2 - width, y2 - height]) > ROUNDING
    if beyond.any():
        first = where(int(np.flatnonzero(beyond)[0]))
        warnings.warn(
            f"{source}: {int(beyond.sum())} of {len(boxes)} boxes reach beyond their images, the first in {first}; "
            f"they are cut at the edge for training (is the order of their numbers right?)",
            stacklevel=3,
        )


def number_names(names: Sequence[str], classes: tuple[str, ...], where: Callable[[int], str]) -> Integers:
    """Return the label, from 1, of each name. Raises BadInputError for a name that is not among the classes."""
    places = {name: place for place, name in enumerate(classes, start=1)}
    labels = np.array([places.get(name, 0) for name in names], np.int64)
    if not labels.all():
        row = int(np.flatnonzero(labels == 0)[0])
        raise BadInputError(f"{where(row)}: class {names[row]}, expected one of {', '.join(classes)}")
    return labels
