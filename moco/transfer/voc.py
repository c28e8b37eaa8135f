"""PASCAL VOC's layout: JPEGImages, Annotations (XML), ImageSets/Main (lists of names)."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from PIL import Image as PillowImage

from moco.data.decoding import FORMATS
from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.files import Folder, read_lines, require_folder
from moco.transfer.objects import ObjectTable, check_boxes, number_names

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Annotated:
    """What an XML file says."""

    size: tuple[int, int] | None
    """Height and width of the image, where it says so."""
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def roots(data: Path, part: str) -> list[Path]:
    """The folder itself, or those in it (VOC2007, VOC2012) or in its VOCdevkit, that hold ImageSets and `part`."""
    for place in (data, data / "VOCdevkit"):
        candidates = [place, *(sorted(place.iterdir()) if place.is_dir() else ())]
        found = [folder for folder in candidates if (folder / "ImageSets" / part).is_dir()]
        if found:
            return found
    raise BadInputError(f"{data}: no ImageSets/{part} in it or in a folder of it, expected PASCAL VOC's layout")


def split_lists(folders: list[Path], part: str, split: str) -> list[Path]:
    """The lists that make up a split. Test: test.txt where there is any, else val.txt. Train: what is not tested on.

    With a test.txt that is trainval.txt (or train.txt), without one train.txt alone.
    """
    sets = [folder / "ImageSets" / part for folder in folders]
    tested = any((folder / "test.txt").is_file() for folder in sets)
    if split == "test":
        wanted: tuple[str, ...] = ("test.txt",) if tested else ("val.txt",)
    else:
        wanted = ("trainval.txt", "train.txt") if tested else ("train.txt",)
    lists = []
    for folder in sets:
        lists += [folder / name for name in wanted if (folder / name).is_file()][:1]
    if not lists:
        raise BadInputError(f"{sets[0]}: no {' and no '.join(wanted)}, expected lists of the images of a split")
    return lists


def open_voc(data: Path, split: str, classes: tuple[str, ...] | None = None) -> ObjectTable:
    """The images of a split with their boxes; without `classes`, these are the names in all XML files, sorted.

    VOC counts pixels from 1 and includes the last: a box is (xmin - 1, ymin - 1, xmax, ymax) from corner to corner.
    Raises BadInputError naming the file that is missing or wrong.
    """
    folders = roots(data, "Main")
    paths, sizes, files, parsed = list[bytes](), list[tuple[int, int]](), list[Path](), dict[Path, _Annotated]()
    for listed in split_lists(folders, "Main", split):
        root = listed.parents[2]
        images = Folder(root / "JPEGImages", "PASCAL VOC's images")
        annotations = Folder(root / "Annotations", "PASCAL VOC's XML files")
        for name in read_lines(listed):
            path = images.find_image(name, listed)
            file = Path(annotations.find(f"{name}.xml", listed))
            parsed[file] = _read_objects(file)
            sizes.append(parsed[file].size or size_of(path))
            paths.append(os.fsencode(path))
            files.append(file)
    classes = classes or _all_classes(folders, parsed)
    annotated = [parsed[file] for file in files]
    counts = [len(one.names) for one in annotated]
    of_object = np.repeat(np.arange(len(files)), counts)
    boxes = np.array([box for one in annotated for box in one.boxes], np.float64).reshape(-1, 4)
    names = [name for one in annotated for name in one.names]
    height_width = np.array(sizes, np.int64).reshape(-1, 2)

    def where(row: int) -> str:
        return str(files[of_object[row]])

    check_boxes(boxes, height_width[of_object], where, data)
    return ObjectTable(
        rules="voc",
        kind="detection",
        classes=classes,
        paths=PathTable(paths),
        image_ids=np.arange(len(paths)),
        sizes=height_width,
        ends=np.cumsum([0, *counts]),
        boxes=boxes,
        labels=number_names(names, classes, where),
        iscrowd=np.zeros(len(boxes), bool),
        ignore=np.array([flag for one in annotated for flag in one.difficult], bool),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        class_ids=np.arange(1, len(classes) + 1),
        sources=PathTable(map(os.fsencode, files)),
    )


def read_xml(path: Path) -> Element:
    """The root of an XML file; one that declares a document type is refused, and with it every entity of its own."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadInputError(f"{path}: declares a document type, expected plain XML: remove the declaration")

    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (OSError, expat.ExpatError, AssertionError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"{path}: cannot be read as XML ({error}): correct or replace it") from error


def _read_objects(path: Path) -> _Annotated:
    """The objects of an XML file, and the size of the image."""
    root = read_xml(path)
    height, width = (root.findtext(f"size/{side}") for side in ("height", "width"))
    annotated = _Annotated(None)
    if height and width:
        size = int(_number(height, path, "height")), int(_number(width, path, "width"))
        annotated.size = size if min(size) > 0 else None
    for entry in root.iterfind("object"):
        box = entry.find("bndbox")
        name = (entry.findtext("name") or "").strip()
        if box is None or not name:
            raise BadInputError(f"{path}: an object without name or bndbox: correct or remove it")
        xmin, ymin, xmax, ymax = (_number(box.findtext(corner), path, corner) for corner in CORNERS)
        annotated.names.append(name)
        annotated.boxes.append((xmin - 1, ymin - 1, xmax, ymax))
        annotated.difficult.append((entry.findtext("difficult") or "").strip() == "1")
    return annotated


def _number(text: str | None, path: Path, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInputError(f"{path}: {what} is {text!r}, expected a number")
    return value


def size_of(path: str) -> tuple[int, int]:
    """Height and width from an image's header, upright by its EXIF tag."""
    try:
        with PillowImage.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"{path}: cannot be read as an image ({error}): remove or replace it") from error
    return (width, height) if turned else (height, width)


def _all_classes(folders: list[Path], parsed: dict[Path, _Annotated]) -> tuple[str, ...]:
    """The names of all objects of all splits, so that a split without some class numbers them as the others do."""
    names = set[str]()
    for folder in folders:
        for path in require_folder(folder / "Annotations", "PASCAL VOC's XML files").glob("*.xml"):
            names.update((parsed.get(path) or _read_objects(path)).names)
    if not names:
        raise BadInputError(f"{folders[0] / 'Annotations'}: no object in any XML file, expected some")
    return tuple(sorted(names))
