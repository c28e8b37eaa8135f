"""The images below a folder: found in the order of their paths' bytes, the index of large folders kept on disk."""

import os
import time
import warnings
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moco.data import columns
from moco.data.images import EXTENSIONS, FileImages, Labels, PathTable
from moco.errors import BadInputError

LARGE = 50_000
"""The index of a folder with more images than this is kept; others are searched anew every time."""
TICK = 20_000_000
"""Nanoseconds within which two changes of a folder may get the same time stamp: Linux counts steps of up to 10 ms."""
COLUMNS = {"names": "u1", "name_ends": "i8", "labels": "i8", "folders": "u1", "folder_ends": "i8", "times": "i8"}

_ENDINGS = {ending.encode() for ending in EXTENSIONS}


def open_folder(root: Path) -> FileImages:
    """Open the images below `root`, labelled by their first folder where all lie in one.

    The index of a large folder is opened as long as no folder in it has another time of change than it had then: a file
    or folder was neither added nor removed nor renamed since. Raises BadInputError where there is no image.
    """
    kept = open_kept(root)
    if kept is not None:
        return kept
    found = _Found()
    images = _search(root, found)
    if len(images) > LARGE:
        try:
            _keep(root, images, found)
        except OSError as error:
            place = columns.cache_place(root)
            warnings.warn(f"the index of {root} cannot be kept in {place} ({error.strerror})", stacklevel=2)
    return images


def open_kept(root: Path) -> FileImages | None:
    """Open the images below `root` by the index that was kept; None where there is none or something changed since."""
    stored = columns.load_columns(columns.cache_place(root), COLUMNS)
    if stored is None:
        return None
    arrays, facts = stored
    top, folders = os.fsencode(root), PathTable.from_arrays(arrays["folders"], arrays["folder_ends"])
    if facts.get("root") != os.path.realpath(root) or arrays["times"].shape != (len(folders), 2):
        return None
    for index, times in enumerate(arrays["times"].tolist()):
        try:
            if _read_times(os.path.join(top, folders[index])) != times:
                return None
        except OSError:
            return None
    if not columns.labels_fit(arrays["labels"], len(arrays["name_ends"]) - 1, facts.get("classes", [])):
        return None
    labels = arrays["labels"] if len(arrays["labels"]) else None
    return FileImages(
        top, PathTable.from_arrays(arrays["names"], arrays["name_ends"]), labels, tuple(facts.get("classes", ()))
    )


@dataclass
class _Found:
    """The facts that a search finds besides the images."""

    folders: list[bytes] = field(default_factory=list)
    """Every folder that was looked into."""
    times: list[list[int]] = field(default_factory=list)
    """When each was changed last."""
    classes: list[bytes] = field(default_factory=list)
    """The first folders that hold images, in the order of the paths ..."""
    counts: list[int] = field(default_factory=list)
    """... and how many."""
    loose: bool = False
    """Whether an image lies in none."""


def _keep(root: Path, images: FileImages, found: _Found) -> None:
    folders, none = PathTable(found.folders), np.zeros(0, np.int64)
    arrays: dict[str, columns.Column] = {
        "names": images.paths.text,
        "name_ends": images.paths.ends,
        "labels": none if images.labels is None else images.labels,
        "folders": folders.text,
        "folder_ends": folders.ends,
        "times": np.array(found.times, np.int64),
    }
    columns.save_columns(columns.cache_place(root), arrays, {"root": os.path.realpath(root), "classes": images.classes})


def _search(root: Path, found: _Found) -> FileImages:
    top = os.fsencode(root)
    paths = PathTable(_count_folders(_walk(top, b"", found), found))
    if not len(paths):
        raise BadInputError(f"--data {root}: no image in it, expected files ending in {' '.join(EXTENSIONS)}")
    labels: Labels | None = None
    names = sorted(found.classes)
    if not found.loose:
        number = {name: i for i, name in enumerate(names)}
        labels = np.repeat(np.array([number[name] for name in found.classes], np.int64), found.counts)
    classes = () if labels is None else tuple(os.fsdecode(name) for name in names)
    return FileImages(top, paths, labels, classes)


def _walk(top: bytes, below: bytes, found: _Found) -> Iterator[bytes]:
    """Yield the images of a folder in the order of their paths' bytes: folders sort as if their names ended in `/`.

    So the paths come one by one, and only one folder's names are in memory at a time.
    """
    folder = os.path.join(top, below)
    times = _read_times(folder)
    if 0 <= (young := time.time_ns() - max(times)) < TICK:  # a change yet to come could get the same stamp
        time.sleep((TICK - young) / 1e9)
        times = _read_times(folder)
    found.folders.append(below)
    found.times.append(times)
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir():
                names.append(entry.name + b"/")
            elif os.path.splitext(entry.name)[1].lower() in _ENDINGS:
                names.append(entry.name)
    names.sort()
    for name in names:
        if name.endswith(b"/"):
            yield from _walk(top, below + name, found)
        else:
            yield below + name


def _read_times(folder: bytes) -> list[int]:
    """Read when a folder was changed last: programs that restore the first time cannot set back the second."""
    status = os.stat(folder)
    return [status.st_mtime_ns, status.st_ctime_ns]


def _count_folders(paths: Iterator[bytes], found: _Found) -> Iterator[bytes]:
    """Yield the same paths, and count their first folders on the way."""
    counts, latest = array("q"), b""
    for path in paths:
        first, slash, _ = path.partition(b"/")
        if not slash:
            found.loose = True
        elif first == latest:
            counts[-1] += 1
        else:
            latest = first
            found.classes.append(first)
            counts.append(1)
        yield path
    found.counts = counts.tolist()
