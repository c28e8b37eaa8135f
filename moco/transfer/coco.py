"""COCO's format and LVIS': one JSON file for the annotations of a split."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moco.data.images import PathTable
from moco.errors import BadInputError, one_line
from moco.transfer.coco_files import find_coco, first_file, image_folder
from moco.transfer.files import Folder, hold_out
from moco.transfer.headers import read_header
from moco.transfer.objects import Federation, Flags, Floats, Integers, ObjectTable, check_boxes, check_sizes
from moco.transfer.outlines import extent, pack_outline
from moco.transfer.records import (
    Ids,
    Records,
    list_records,
    read_column,
    read_flags,
    read_json,
)
from moco.transfer.targets import Skeleton, mirrored_pairs

PREFIXES = {"coco": "instances", "coco-keypoints": "person_keypoints"}
HALF_PIXEL = 0.5
"""COCO's keypoints are pixels' numbers, its boxes and polygons lengths: a keypoint lies in the middle of its pixel."""


def open_coco(data: Path, split: str, layout: str) -> ObjectTable:
    """Open the images of a split with their boxes, and the outlines or keypoints of their objects, as the layout says.

    Raises BadInputError naming the file that is missing or wrong.
    """
    files = find_coco(data, split, PREFIXES[layout])
    if files.whole and split == "train":
        warnings.warn(
            f"{files.path}: annotations without splits: every tenth image is tested on, and the others are trained on",
            stacklevel=2,
        )
    return read_coco(
        files.path,
        lambda image: files.images.find(image.get("file_name"), files.path),
        keypoints=layout == "coco-keypoints",
        part=split if files.whole else None,
    )


def open_lvis(data: Path, split: str) -> ObjectTable:
    """Open the images of a split of LVIS v1 or v0.5, in COCO's image folders, with boxes and outlines."""
    name = "val" if split == "test" else "train"
    names = [f"lvis_{version}_{name}.json" for version in ("v1", "v0.5")]
    path = first_file([place / name for place in (data / "annotations", data, data / "lvis") for name in names])
    folders = {}
    for place in ("train2017", "val2017", "train", "val"):
        if (data / place).is_dir():
            folders[place] = Folder(data / place, "COCO's images")
    usual = image_folder(data, [f"{name}2017", name])

    def find(image: dict[str, Any]) -> str:
        *_, folder, file = ["", "", *str(image.get("coco_url", "")).split("/")]
        if folder in folders:
            return folders[folder].find(file, path)
        file = file or str(image.get("file_name", "")).removeprefix(f"COCO_{name}2014_")
        return usual.find(file, path)

    found = read_coco(path, find, federated=True)
    if found.outlines is None:
        raise BadInputError(f"{path}: objects without segmentation, expected LVIS' polygons")
    return found


def read_coco(
    path: Path,
    find: Callable[[dict[str, Any]], str],
    *,
    federated: bool = False,
    keypoints: bool = False,
    part: str | None = None,
) -> ObjectTable:
    """Read what a JSON file in COCO's format says; `find` gives the file of an image.

    With `keypoints` the objects have these, and without it outlines, where any of them has one: the task decides, not
    the file. Where `part` names a split, the images are divided between the splits.
    """
    with _uncollected():
        content = read_json(path)
        images, annotations, categories = (
            list_records(content, path, key) for key in ("images", "annotations", "categories")
        )
        ids, class_of, classes = Ids(images, path, "images", "image_id"), *_classes(categories, path)
        place = ids.places(annotations, "image_id")
        _warn_of_repeated(images, path)
        if part is not None:
            chosen = hold_out(len(images), part)
            images, annotations, place = _choose(chosen, images, annotations, place)
        else:
            chosen = list(range(len(images)))
        paths = [find(image) for image in images]
        sizes = _sizes(images, paths, path)
        order = np.argsort(place, kind="stable")
        annotations, place = [annotations[row] for row in order], place[order]
        labels = class_of(annotations)
        crowd = read_flags(annotations, "iscrowd", path)
        packed, boxes = _shapes(annotations, sizes[place], path)
        check_boxes(boxes, sizes[place], lambda row: f"{path}: annotation {annotations[row].get('id')}", path)
        found = _keypoints(categories, annotations, path) if keypoints else None
        federation = _federation(images, categories, path) if federated else None
    outlined = found is None and any(packed)
    if outlined:
        _warn_of_missing(packed, boxes, crowd, annotations, path)
    elif found is None and annotations and not federated:
        warnings.warn(
            f"{path}: no object has an outline that can be drawn: boxes alone are learned and measured", stacklevel=3
        )
    return ObjectTable(
        rules="lvis" if federated else "coco",
        kind="keypoints" if found else "instance" if outlined else "detection",
        classes=classes,
        paths=PathTable(map(os.fsencode, paths)),
        image_ids=ids.numbers[chosen],
        sizes=sizes,
        ends=np.searchsorted(place, np.arange(len(images) + 1)),
        boxes=boxes,
        labels=labels,
        iscrowd=crowd,
        ignore=np.zeros(len(boxes), bool),
        area=_areas(annotations, boxes, path),
        outlines=PathTable(packed) if outlined else None,
        keypoints=found[1] if found else None,
        skeleton=found[0] if found else None,
        federation=federation,
        sources=PathTable([os.fsencode(path)]),
    )


def _warn_of_repeated(images: Records, path: Path) -> None:
    """Warn of images that name a file which another names too, as where files of single classes were joined."""
    first, repeated = dict[str, Any](), list[tuple[str, Any, Any]]()
    for image in images:
        name = str(image.get("coco_url") or image.get("file_name"))
        if name in first:
            repeated.append((name, first[name], image.get("id")))
        first.setdefault(name, image.get("id"))
    if repeated:
        name, one, other = repeated[0]
        warnings.warn(
            one_line(
                f"{path}: {len(repeated)} of {len(images)} images name a file that another names too (the first: "
                f"{name}, ids {one} and {other}): each is learned and measured with its own objects only: join their "
                f"annotations under one id"
            ),
            stacklevel=3,
        )


def _choose(
    chosen: list[int], images: Records, annotations: Records, place: Integers
) -> tuple[Records, Records, Integers]:
    """Some of the images, with their annotations and where among them each of these belongs."""
    new = np.full(len(images), -1)
    new[chosen] = np.arange(len(chosen))
    kept = np.flatnonzero(new[place] >= 0)
    return [images[row] for row in chosen], [annotations[row] for row in kept], new[place[kept]]


def _sizes(images: Records, paths: Sequence[str], path: Path) -> Integers:
    """Height and width of each image (n, 2); those that the file does not tell are read from the images."""
    for image, file in zip(images, paths, strict=True):
        if not (image.get("height") and image.get("width")):
            image["height"], image["width"] = read_header(file).size
    sizes = np.stack([read_column(images, side, path, "images", np.int64) for side in ("height", "width")], axis=1)
    return check_sizes(sizes, lambda row: f"{path}: images[{row}]")


def _shapes(annotations: Records, sizes: Integers, path: Path) -> tuple[list[bytes], Floats]:
    """The outline of each object, empty where it has none, and its box, which may be that of the outline."""
    packed = list[bytes]()
    with_box = [bool(annotation.get("bbox")) for annotation in annotations]
    given = [
        annotation if known else {"bbox": [0] * 4} for annotation, known in zip(annotations, with_box, strict=True)
    ]
    boxes = np.asarray(read_column(given, "bbox", path, "annotations", np.float64, 4))
    boxes[:, 2:] += boxes[:, :2]
    for row, (annotation, size) in enumerate(zip(annotations, sizes.tolist(), strict=True)):
        try:
            packed.append(pack_outline(annotation.get("segmentation"), (size[0], size[1]), boxes[row].tolist()))
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInputError(f"{path}: annotation {annotation.get('id')} has {error}: correct it") from error
        if not with_box[row]:
            if not packed[row]:
                raise BadInputError(
                    f"{path}: annotation {annotation.get('id')} has neither bbox nor segmentation, expected one of "
                    f"them: correct or remove it"
                )
            boxes[row] = extent(packed[row], (size[0], size[1]))
    return packed, boxes


def _areas(annotations: Records, boxes: Floats, path: Path) -> Floats:
    extents = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).tolist()
    areas = [
        {"area": of_box if annotation.get("area") is None else annotation["area"]}
        for annotation, of_box in zip(annotations, extents, strict=True)
    ]
    return np.asarray(read_column(areas, "area", path, "annotations", np.float64))


def _warn_of_missing(packed: list[bytes], boxes: Floats, crowd: Flags, annotations: Records, path: Path) -> None:
    """Say how many objects train without a mask."""
    missing = np.array([not one for one in packed]) & (boxes[:, 2:] > boxes[:, :2]).all(1) & ~crowd
    if missing.any():
        warnings.warn(
            f"{path}: {int(missing.sum())} of {len(packed)} objects have no outline that can be drawn (the first: "
            f"annotation {annotations[int(missing.argmax())].get('id')}): their boxes train, but the mask loss and "
            f"mask AP leave them out",
            stacklevel=4,
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector, which would search millions of lists repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _classes(categories: Records, path: Path) -> tuple[Callable[[Records], Integers], tuple[str, ...]]:
    """What numbers the classes of annotations from 1, and their names, in the order of their ids.

    Categories of the same name are one class: Roboflow's files begin with one that only groups the others.
    """
    ids = Ids(categories, path, "categories", "category_id")
    categories[:] = [categories[row] for row in ids.order]
    names = [category.get("name") for category in categories]
    if not names or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: a category without name, or none at all: expected at least one class")
    classes = tuple(dict.fromkeys(map(str, names)))
    rank = np.argsort(ids.order)
    label = np.array([1 + classes.index(str(name)) for name in names])[rank]
    return lambda annotations: np.asarray(label[ids.places(annotations, "category_id")]), classes


def _keypoints(categories: Records, annotations: Records, path: Path) -> tuple[Skeleton, Floats]:
    """The keypoints' names and, for each object, where they are."""
    names = next((category["keypoints"] for category in categories if category.get("keypoints")), None)
    if names is None:
        raise BadInputError(f"{path}: no category has keypoints, expected COCO's person keypoints")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: keypoints of a category, expected a list of names")
    nothing = [0] * (3 * len(names))
    points = [{"id": a.get("id"), "keypoints": a.get("keypoints") or nothing} for a in annotations]
    values = np.asarray(read_column(points, "keypoints", path, "annotations", np.float64, 3 * len(names)))
    keypoints = values.reshape(-1, len(names), 3)
    keypoints[..., :2] = np.where(keypoints[..., 2:] > 0, keypoints[..., :2] + HALF_PIXEL, 0)
    return Skeleton(tuple(names), mirrored_pairs(tuple(names))), keypoints


def _federation(images: Records, categories: Records, path: Path) -> Federation:
    ids = Ids(categories, path, "categories", "category_id")  # in the order of the classes by now

    def labels(key: str) -> tuple[tuple[int, ...], ...]:
        lists = [image.get(key, ()) for image in images]
        if not all(isinstance(one, list | tuple) for one in lists):
            raise BadInputError(f"{path}: {key} of an image, expected a list of category ids")
        return tuple(tuple((1 + ids.places([{key: one} for one in some], key)).tolist()) for some in lists)

    frequency = tuple(str(category.get("frequency")) for category in categories)
    if not set(frequency) <= {"r", "c", "f"}:
        raise BadInputError(f"{path}: a category without frequency r, c or f, expected LVIS' format")
    return Federation(labels("neg_category_ids"), labels("not_exhaustive_category_ids"), frequency)
