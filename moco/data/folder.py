"""The images below a folder, labelled by their class folders; the index of large folders is kept on disk."""

import os
import warnings
from pathlib import Path

import numpy as np

from moco.data import columns
from moco.data.images import EXTENSIONS, FileImages, Labels, PathTable
from moco.data.kinds import Exclude
from moco.data.layout import find_start
from moco.data.notes import Notes
from moco.data.search import Search, read_times
from moco.data.tree import DiskTree
from moco.errors import BadInputError, counted

LARGE = 50_000
"""The index of a folder with more images than this is kept; others are searched anew every time."""
RULES = 2
"""The version of the rules for images and class folders; an index by another version is rebuilt."""
COLUMNS = {"names": "u1", "name_ends": "i8", "labels": "i8", "folders": "u1", "folder_ends": "i8", "times": "i8"}
ALL = Exclude()


def open_folder(root: Path, exclude: Exclude = ALL, notes: Notes | None = None, prefix: bytes = b"") -> FileImages:
    """Open the images below `root`, labelled by their first folder where all lie in one.

    Folders that are called for holding images (`images/`, `data/`) are no classes where they hold all of them; those
    inside are. `prefix` is the path of `root` below `--data` and a slash, with which `exclude` is asked.

    The index of a large folder is opened as long as no folder in it has another time of change than it had then: a file
    or folder was neither added nor removed nor renamed since. Raises BadInputError where there is no image.
    """
    notes = Notes() if notes is None else notes
    kept = open_kept(root, exclude, notes, prefix)
    if kept is not None:
        return kept
    search = Search(os.fsencode(root), exclude, prefix, find_start(DiskTree(os.fspath(root), exclude, prefix)))
    images = _search(root, search)
    if len(images) > LARGE:
        try:
            _keep(root, images, search)
        except OSError as error:
            place = columns.cache_place(root)
            warnings.warn(f"the index of {root} cannot be kept in {place} ({error.strerror})", stacklevel=2)
    notes.add(search.notes)
    return images


def open_kept(root: Path, exclude: Exclude = ALL, notes: Notes | None = None, prefix: bytes = b"") -> FileImages | None:
    """Open the images below `root` by the index that was kept; None where there is none or something changed since."""
    stored = columns.load_columns(columns.cache_place(root), COLUMNS)
    if stored is None:
        return None
    arrays, facts = stored
    if not (arrays["names"].all() and arrays["folders"].all()):  # a NUL, which no path has
        return None
    top, folders = os.fsencode(root), PathTable.from_arrays(arrays["folders"], arrays["folder_ends"])
    if facts.get("root") != os.path.realpath(root) or arrays["times"].shape != (len(folders), 2):
        return None
    if facts.get("rules") != RULES or facts.get("exclude") != _describe_exclude(exclude, prefix):
        return None
    for index, times in enumerate(arrays["times"].tolist()):
        try:
            if read_times(os.path.join(top, folders[index])) != times:
                return None
        except OSError:
            return None
    if not columns.labels_fit(arrays["labels"], len(arrays["name_ends"]) - 1, facts.get("classes", [])):
        return None
    if notes is not None:
        notes.add(Notes.from_facts(facts.get("notes")))
    labels = arrays["labels"] if len(arrays["labels"]) else None
    return FileImages(
        top, PathTable.from_arrays(arrays["names"], arrays["name_ends"]), labels, tuple(facts.get("classes", ()))
    )


def _keep(root: Path, images: FileImages, search: Search) -> None:
    folders, none = PathTable(search.folders), np.zeros(0, np.int64)
    arrays: dict[str, columns.Column] = {
        "names": images.paths.text,
        "name_ends": images.paths.ends,
        "labels": none if images.labels is None else images.labels,
        "folders": folders.text,
        "folder_ends": folders.ends,
        "times": np.array(search.times, np.int64),
    }
    facts = {
        "root": os.path.realpath(root), "classes": images.classes, "rules": RULES,
        "exclude": _describe_exclude(search.exclude, search.prefix), "notes": search.notes.to_facts(),
    }  # fmt: skip
    columns.save_columns(columns.cache_place(root), arrays, facts)


def _describe_exclude(exclude: Exclude, prefix: bytes) -> list[str]:
    more = ["*.npy", "*.dcm"] if exclude.arrays else []
    return [os.fsdecode(prefix), *exclude.patterns, *more] if exclude.patterns or more else []


def _find_common(paths: PathTable, start: bytes) -> list[bytes]:
    """List the folders that every class folder holds and nothing else, as folds and sites of a study do; or none."""
    found: dict[bytes, set[bytes]] = {}
    for index in range(len(paths)):
        own, *inside = paths[index][len(start) :].split(b"/")
        if len(inside) < 2:
            return []
        found.setdefault(own, set()).add(inside[0])
    first = next(iter(found.values()), set())
    return sorted(first) if len(first) > 1 and all(names == first for names in found.values()) else []


def _search(root: Path, search: Search) -> FileImages:
    paths = PathTable(search.paths())
    if not len(paths):
        left_out = f" (left out: {search.notes.left_out})" if search.notes.skipped else ""
        raise BadInputError(
            f"--data {root}: no image in it, expected files ending in {' '.join(EXTENSIONS)}, or others "
            f"whose content is an image{left_out}"
        )
    labels: Labels | None = None
    names = sorted(search.classes)
    if not search.loose:
        number = {name: i for i, name in enumerate(names)}
        labels = np.repeat(np.array([number[name] for name in search.classes], np.int64), search.counts)
    elif names:
        search.notes.remark(
            f"{counted(search.loose, 'image')} beside {counted(len(names), 'folder')} with images, such as "
            f"{os.fsdecode(names[0])}/: so these are no classes, and there are no labels; if they are, leave the "
            f"others out with --exclude"
        )
    classes = () if labels is None else tuple(os.fsdecode(name) for name in names)
    if len(classes) > 1 and len(paths) <= LARGE and (inside := _find_common(paths, search.start)):
        few = [f"{os.fsdecode(name)}/" for name in inside[:3]] + (["..."] if len(inside) > 3 else [])
        search.notes.remark(
            f"{classes[0]}/, {classes[1]}/{', ...' if len(classes) > 2 else ''} are its classes, and each holds "
            f"{', '.join(few)}: if those are the classes, bring the images of each into one folder"
        )
    return FileImages(search.top, paths, labels, classes)
