"""PASCAL VOC's layout: JPEGImages, Annotations (XML), ImageSets/Main (lists of names)."""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from moco.data.images import PathTable
from moco.errors import BadInputError, quote
from moco.runtime.files import read_bounded
from moco.transfer.headers import read_header
from moco.transfer.objects import ObjectTable, check_boxes, check_sizes, number_names
from moco.transfer.voc_files import annotated_files, every_xml

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Annotated:
    """What an XML file says."""

    size: tuple[float, float] | None
    """Height and width of the image, if the file has them."""
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def open_voc(data: Path, split: str, classes: tuple[str, ...] | None = None) -> ObjectTable:
    """Open the images of a split with their boxes; without `classes`, these are the names in all XML files, sorted.

    VOC counts pixels from 1 and includes the last: a box is (xmin - 1, ymin - 1, xmax, ymax) from corner to corner.
    Raises BadInputError naming the file that is missing or wrong.
    """
    paths, sizes, files, parsed = list[bytes](), list[tuple[float, float]](), list[Path](), dict[Path, _Annotated]()
    for path, file in annotated_files(data, split):
        parsed[file] = _read_objects(file)
        sizes.append(parsed[file].size or read_header(path).size)
        paths.append(os.fsencode(path))
        files.append(file)
    classes = classes or _all_classes(data, parsed)
    annotated = [parsed[file] for file in files]
    counts = [len(one.names) for one in annotated]
    of_object = np.repeat(np.arange(len(files)), counts)
    boxes = np.array([box for one in annotated for box in one.boxes], np.float64).reshape(-1, 4)
    names = [name for one in annotated for name in one.names]
    height_width = check_sizes(np.array(sizes, np.float64).reshape(-1, 2), lambda row: str(files[row]))

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
        sources=PathTable(map(os.fsencode, files)),
    )


def read_xml(path: Path) -> Element:
    """Parse an XML file and return its root. Refuses a document type, and with it custom entities."""
    builder = TreeBuilder()

    def refuse(*_: object) -> None:
        raise BadInputError(f"{path}: declares a document type, expected plain XML: remove the declaration")

    try:
        content, parser = _in_utf8(read_bounded(path))
        parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
        parser.Parse(content, True)
        return builder.close()
    except (OSError, expat.ExpatError, AssertionError, LookupError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"{path}: cannot be read as XML ({error}): correct or replace it") from error


def _in_utf8(content: bytes) -> tuple[bytes, expat.XMLParserType]:
    """XML and its parser; encodings of several bytes (GBK, Shift-JIS), which expat does not know, become UTF-8."""
    declared = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.-]+)", content[:200])
    if declared is None or declared[1].lower().startswith((b"utf", b"us-ascii", b"iso-8859-1")):
        return content, expat.ParserCreate()
    return content.decode(declared[1].decode("ascii")).encode("utf-8"), expat.ParserCreate("utf-8")


def _read_objects(path: Path) -> _Annotated:
    """The objects of an XML file, and the size of the image."""
    root = read_xml(path)
    height, width = (root.findtext(f"size/{side}") for side in ("height", "width"))
    annotated = _Annotated(None)
    if height and width:
        size = _number(height, path, "height"), _number(width, path, "width")
        annotated.size = size if min(size) > 0 else None
    for entry in root.iterfind("object"):
        name = (entry.findtext("name") or "").strip()
        box = _corners(entry, path)
        if box is None or not name:
            raise BadInputError(f"{path}: an object without name or bndbox: correct or remove it")
        xmin, ymin, xmax, ymax = box
        annotated.names.append(name)
        annotated.boxes.append((xmin - 1, ymin - 1, xmax, ymax))
        annotated.difficult.append((entry.findtext("difficult") or "").strip().lower() in ("1", "true"))
    return annotated


def _corners(entry: Element, path: Path) -> tuple[float, float, float, float] | None:
    """The box of an object, xmin to ymax; where it has a polygon alone, the box around that."""
    box, polygon = entry.find("bndbox"), entry.find("polygon")
    if box is not None:
        xmin, ymin, xmax, ymax = (_number(box.findtext(corner), path, corner) for corner in CORNERS)
        return xmin, ymin, xmax, ymax
    numbers = [] if polygon is None else [one for one in polygon.iter() if re.fullmatch(r"[xy]\d*", one.tag)]
    x, y = ([_number(one.text, path, one.tag) for one in numbers if one.tag[0] == axis] for axis in "xy")
    return (min(x), min(y), max(x), max(y)) if x and y else None


def _number(text: str | None, path: Path, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInputError(f"{path}: {what} is {quote(text)}, expected a number")
    return value


def _all_classes(data: Path, parsed: dict[Path, _Annotated]) -> tuple[str, ...]:
    """The names of all objects of all splits, so that a split without some class numbers them as the others do."""
    files = every_xml(data)
    names = {name for path in files for name in (parsed.get(path) or _read_objects(path)).names}
    if not names:
        where = files[0].parent if files else data
        raise BadInputError(f"{where}: no object in any XML file, expected some")
    return tuple(sorted(names))
