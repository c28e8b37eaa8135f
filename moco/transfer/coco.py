"""COCO's layout and LVIS': one JSON file for the annotations of a split, folders of images."""

import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.files import Folder
from moco.transfer.objects import Federation, Floats, Integers, ObjectTable, check_boxes
from moco.transfer.outlines import pack_outline
from moco.transfer.targets import Skeleton, mirrored_pairs

YEARS = ("2017", "", "2014")
PREFIXES = {"coco": "instances", "coco-keypoints": "person_keypoints"}
Records = list[dict[str, Any]]
HALF_PIXEL = 0.5
"""COCO's keypoints are pixels' numbers, its boxes and polygons lengths: a keypoint lies in the middle of its pixel."""


def open_coco(data: Path, split: str, layout: str) -> ObjectTable:
    """The images of a split with their boxes, and outlines or keypoints where all objects have them.

    Raises BadInputError naming the file that is missing or wrong.
    """
    name = "val" if split == "test" else "train"
    names = [f"{PREFIXES[layout]}_{name}{year}.json" for year in YEARS]
    path = _first_file([data / "annotations" / name for name in names])
    year = path.stem.removeprefix(f"{PREFIXES[layout]}_{name}")
    folder = _images(data, [f"{name}{year}", name, f"{name}2017"])
    found = read_coco(path, lambda image: folder.find(image.get("file_name"), path))
    if layout == "coco-keypoints" and found.keypoints is None:
        raise BadInputError(f"{path}: no category has keypoints, expected COCO's person keypoints")
    return found


def open_lvis(data: Path, split: str) -> ObjectTable:
    """The images of a split of LVIS v1 or v0.5, in COCO's image folders, with boxes and outlines."""
    name = "val" if split == "test" else "train"
    names = [f"lvis_{version}_{name}.json" for version in ("v1", "v0.5")]
    path = _first_file([place / name for place in (data / "annotations", data, data / "lvis") for name in names])
    folders = {}
    for place in ("train2017", "val2017", "train", "val"):
        if (data / place).is_dir():
            folders[place] = Folder(data / place, "COCO's images")
    usual = _images(data, [f"{name}2017", name])

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


def read_coco(path: Path, find: Callable[[dict[str, Any]], str], federated: bool = False) -> ObjectTable:
    """What a JSON file in COCO's format says; `find` gives the file of an image."""
    with _uncollected():
        content = _read(path)
        images, annotations, categories = (
            _records(content, path, key) for key in ("images", "annotations", "categories")
        )
        class_ids, classes = _classes(categories, path)
        image_ids = _column(images, "id", path, "images", np.int64)
        sizes = np.stack([_column(images, side, path, "images", np.int64) for side in ("height", "width")], axis=1)
        if len(sizes) and sizes.min() <= 0:
            raise BadInputError(f"{path}: an image without height or width, expected pixels")
        paths = PathTable(os.fsencode(find(image)) for image in images)
        place = _places(_column(annotations, "image_id", path, "annotations", np.int64), image_ids, path, "image_id")
        order = np.argsort(place, kind="stable")
        annotations, place = [annotations[row] for row in order], place[order]
        labels = 1 + _places(
            _column(annotations, "category_id", path, "annotations", np.int64), class_ids, path, "category_id"
        )
        boxes = _column(annotations, "bbox", path, "annotations", np.float64, 4)
        boxes[:, 2:] += boxes[:, :2]
        check_boxes(boxes, sizes[place], lambda row: f"{path}: annotation {annotations[row].get('id')}", path)
        crowd = np.array([annotation.get("iscrowd", 0) == 1 for annotation in annotations], bool)
        extent = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        areas = [{"area": one.get("area", of_box)} for one, of_box in zip(annotations, extent.tolist(), strict=True)]
        area = _column(areas, "area", path, "annotations", np.float64)
        skeleton, keypoints = _keypoints(categories, annotations, path)
        outlines = None if skeleton else _outlines(annotations, sizes[place], path)
        federation = _federation(images, categories, class_ids, path) if federated else None
    return ObjectTable(
        rules="lvis" if federated else "coco",
        kind="keypoints" if skeleton else "instance" if outlines is not None else "detection",
        classes=classes,
        paths=paths,
        image_ids=image_ids,
        sizes=sizes,
        ends=np.searchsorted(place, np.arange(len(images) + 1)),
        boxes=boxes,
        labels=labels,
        iscrowd=crowd,
        ignore=np.zeros(len(boxes), bool),
        area=area,
        outlines=outlines,
        keypoints=keypoints,
        skeleton=skeleton,
        federation=federation,
        class_ids=class_ids,
        sources=PathTable([os.fsencode(path)]),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look through millions of lists again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first_file(paths: list[Path]) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise BadInputError(f"{paths[0]}: no such file, expected it or one of {', '.join(path.name for path in paths[1:])}")


def _images(data: Path, names: list[str]) -> Folder:
    for folder in (place / name for name in names for place in (data, data / "images")):
        if folder.is_dir():
            return Folder(folder, "the images of a split")
    raise BadInputError(f"{data}: no folder {' or '.join(dict.fromkeys(names))}, expected the images of a split")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: cannot be read as JSON ({error}): replace it") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: expected an object with images, annotations and categories")
    return content


def _records(content: dict[str, Any], path: Path, key: str) -> Records:
    records = content.pop(key, None)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadInputError(f"{path}: no list of objects under {key!r}, expected COCO's format")
    return records


def _column(records: Records, key: str, path: Path, what: str, kind: type, width: int = 0) -> Any:
    """A number, or `width` of them, of every record."""
    shape = (len(records), width) if width else (len(records),)
    try:
        values = np.array([record[key] for record in records], np.float64).reshape(shape)
        if _sound(values, kind):
            return values.astype(kind)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    wanted = f"{width or 'a'} finite {'whole ' if kind is np.int64 else ''}number{'s' if width else ''}"
    for row, record in enumerate(records):
        try:
            value = np.array(record[key], np.float64)
            sound = value.shape == shape[1:] and _sound(value, kind)
        except (KeyError, TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise BadInputError(f"{path}: {what}[{row}] has {key} {str(record.get(key))[:80]}, expected {wanted}")
    raise BadInputError(f"{path}: {key} of {what}, expected {wanted} in each")


def _sound(values: Floats, kind: type) -> bool:
    """Whether all are finite, and where whole numbers are wanted such as a float holds exactly."""
    if not np.isfinite(values).all():
        return False
    return kind is np.float64 or bool(((values == np.trunc(values)) & (np.abs(values) < 2**53)).all())


def _places(wanted: Integers, ids: Integers, path: Path, what: str) -> Integers:
    """Where each wanted number stands among the ids."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    if len(ordered) and (ordered[1:] == ordered[:-1]).any():
        raise BadInputError(f"{path}: two entries with the same id, expected one for each {what}")
    if not len(wanted):
        return np.zeros(0, np.int64)
    place = np.searchsorted(ordered, wanted).clip(max=max(len(ids) - 1, 0))
    unknown = np.flatnonzero(ordered[place] != wanted) if len(ids) else np.arange(1)
    if len(unknown):
        raise BadInputError(f"{path}: an annotation has {what} {wanted[unknown[0]]}, which the file does not define")
    return np.asarray(order[place])


def _classes(categories: Records, path: Path) -> tuple[Integers, tuple[str, ...]]:
    """Ids and names of the classes, in the order of the ids."""
    ids = _column(categories, "id", path, "categories", np.int64)
    order = np.argsort(ids, kind="stable")
    categories[:] = [categories[row] for row in order]
    names = [category.get("name") for category in categories]
    if not names or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: a category without name, or none at all: expected at least one class")
    return np.asarray(ids[order]), tuple(map(str, names))


def _outlines(annotations: Records, sizes: Integers, path: Path) -> PathTable | None:
    """The outlines of all objects; None where not every one has some."""
    if not any(annotation.get("segmentation") for annotation in annotations):
        return None

    def packed() -> Iterator[bytes]:
        for annotation, size in zip(annotations, sizes.tolist(), strict=True):
            try:
                yield pack_outline(annotation.get("segmentation"), (size[0], size[1]))
            except (TypeError, ValueError, OverflowError) as error:
                raise BadInputError(f"{path}: annotation {annotation.get('id')} has {error}: correct it") from error

    return PathTable(packed())


def _keypoints(categories: Records, annotations: Records, path: Path) -> tuple[Skeleton | None, Floats | None]:
    """The keypoints' names and, for each object, where they are."""
    names = next((category["keypoints"] for category in categories if category.get("keypoints")), None)
    if names is None:
        return None, None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: keypoints of a category, expected a list of names")
    nothing = [0] * (3 * len(names))
    points = [{"id": a.get("id"), "keypoints": a.get("keypoints", nothing)} for a in annotations]
    values = np.asarray(_column(points, "keypoints", path, "annotations", np.float64, 3 * len(names)))
    keypoints = values.reshape(-1, len(names), 3)
    keypoints[..., :2] = np.where(keypoints[..., 2:] > 0, keypoints[..., :2] + HALF_PIXEL, 0)
    return Skeleton(tuple(names), mirrored_pairs(tuple(names))), keypoints


def _federation(images: Records, categories: Records, class_ids: Integers, path: Path) -> Federation:
    def labels(key: str) -> tuple[tuple[int, ...], ...]:
        try:
            lists = [np.array(image.get(key, ()), np.int64).reshape(-1) for image in images]
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInputError(f"{path}: {key} of an image ({error}), expected a list of category ids") from error
        return tuple(tuple((1 + _places(ids, class_ids, path, key)).tolist()) for ids in lists)

    frequency = tuple(str(category.get("frequency")) for category in categories)
    if not set(frequency) <= {"r", "c", "f"}:
        raise BadInputError(f"{path}: a category without frequency r, c or f, expected LVIS' format")
    return Federation(labels("neg_category_ids"), labels("not_exhaustive_category_ids"), frequency)
