"""What is known of an image: its objects in torchvision's convention, or the class of every pixel."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from moco.data.images import PathTable

Kind = Literal["detection", "instance", "keypoints", "semantic"]
Rules = Literal["voc", "coco", "lvis", "cityscapes", "semantic"]
"""The benchmark by whose rules predictions are scored."""

Objects = dict[str, Any]
"""The n objects of an image: boxes (n, 4) float32, x1 y1 x2 y2 in pixels; labels (n,) int64 from 1; iscrowd, ignore
(n,) bool; area (n,) float32; image_id int; masks (n, H, W) uint8 and keypoints (n, P, 3) float32 where there are."""
LabelMap = Int64[Tensor, "_ _"]
"""The class of every pixel (H, W)."""
Target = Any
"""Objects, or a LabelMap where the kind is semantic."""

VOID = 255
"""In a label map: a pixel that neither trains nor is scored."""

PER_OBJECT = ("boxes", "labels", "iscrowd", "ignore", "area", "masks", "keypoints")


@dataclass(frozen=True)
class Skeleton:
    """The P keypoints of an object."""

    names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    """Those that a mirrored image exchanges, such as left and right eye."""


@runtime_checkable
class Annotations(Protocol):
    """What a layout's files say, read once; images are named by integers."""

    rules: Rules
    kind: Kind
    classes: tuple[str, ...]
    skeleton: Skeleton | None

    @property
    def sources(self) -> PathTable:
        """Return the files that were read, or will be, beside the images."""

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """Return the image's file."""

    def image_id(self, index: int) -> int:
        """Return the image's number in the annotations, or its place in the list."""

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of the image, as annotated."""

    def target(self, index: int) -> Target:
        """Return what is known of the image."""


def for_training(target: Objects) -> Objects:
    """Return the objects that train: no crowd, none marked difficult, none without width or height."""
    boxes = target["boxes"]
    sized = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return select_objects(target, sized & ~target["iscrowd"] & ~target["ignore"])


def select_objects(target: Objects, chosen: Tensor) -> Objects:
    """Return some of an image's objects, by a mask (n,) or indices."""
    return {name: value[chosen] if name in PER_OBJECT else value for name, value in target.items()}


def mirrored_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return the keypoints whose names differ only in left and right."""
    places = {name: place for place, name in enumerate(names)}
    partners = ((place, places.get(name.replace("left", "right"))) for name, place in places.items() if "left" in name)
    return tuple((left, right) for left, right in partners if right is not None)


def empty_masks(height: int, width: int) -> Tensor:
    """Return the masks of no objects."""
    return torch.zeros((0, height, width), dtype=torch.uint8)
