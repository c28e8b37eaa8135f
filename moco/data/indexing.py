"""Tar shards -> the index of their images: built once by reading them through, kept beside them or in the cache."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from moco.data import columns
from moco.data.columns import Column
from moco.data.derived import Subset
from moco.data.images import EXTENSIONS, Images, Labels, Split
from moco.data.kinds import Exclude
from moco.data.labels import number_classes
from moco.data.layout import find_splits, find_start
from moco.data.notes import Notes
from moco.data.samples import Rows, Samples
from moco.data.shards import COLUMNS, ShardImages, describe, from_index, open_index
from moco.data.tree import NameTree
from moco.errors import BadInputError
from moco.runtime.progress import show_progress

INDEX_FOLDER = ".moco-index"
"""The folder beside shards that others made."""
RULES = 2
"""The version of the rules for images and classes; an index by another version is rebuilt."""
Parts = list[tuple[Split, int, int, bool]]
"""A split, its first row, the one behind its last, and whether they are labelled, for each run of rows of a split."""
Indexed = tuple[Rows, Labels | None, tuple[str, ...], Parts, Notes]
"""What was found in shards: their images, labels and classes, the runs of rows of each split, and what is left out."""


def open_shards(
    paths: Sequence[Path], label: str, notes: Notes | None = None,
    index: Callable[[Sequence[Path]], Indexed] | None = None,
) -> tuple[ShardImages, Parts]:  # fmt: skip
    """Open the images in shards of one folder, through the index called `label`, which is built where there is none.

    `index` reads shards that are no tar files. Where the members lie in folders of splits, the parts say which rows are
    of which. An index belongs to shards of the same names, sizes and times of change. Raises BadInputError for a
    damaged shard, and where there is no image.
    """
    beside = paths[0].parent / INDEX_FOLDER / label
    places = (beside, columns.cache_place(beside))
    notes = Notes() if notes is None else notes
    for place in places:
        stored = columns.load_columns(place, COLUMNS)
        images = None if stored is None or stored[1].get("rules") != RULES else open_index(place, paths, times=True)
        parts = None if stored is None or images is None else _read_parts(stored[1].get("parts"), len(images))
        if images is not None and parts is not None and stored is not None:
            notes.add(Notes.from_facts(stored[1].get("notes")))
            return images, parts
    before = describe(paths)
    rows, labels, classes, parts, found = (index or index_shards)(paths)
    if describe(paths) != before:
        raise BadInputError(f"--data {paths[0].parent}: the shards changed while they were indexed: try again")
    if not len(rows):
        left_out = f" (left out: {found.left_out})" if found.skipped else ""
        raise BadInputError(
            f"--data {paths[0].parent}: no image in its tar files, expected members ending in "
            f"{' '.join(EXTENSIONS)}{left_out}"
        )
    arrays = rows.columns(labels)
    facts = {"shards": before, "classes": list(classes), "rules": RULES, "parts": parts, "notes": found.to_facts()}
    _keep(places, arrays, facts)
    notes.add(found)
    return from_index(paths, before, arrays, classes), parts


def _read_parts(parts: object, rows: int) -> Parts | None:
    """Check the parts that an index names; None where they are damaged."""
    try:
        read = [(split, int(start), int(stop), bool(own)) for split, start, stop, own in parts]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    known = get_args(Split)
    return read if all(split in known and 0 <= start < stop <= rows for split, start, stop, _ in read) else None


def _keep(places: Sequence[Path], arrays: dict[str, Column], facts: columns.Facts) -> None:
    for place in places:
        try:
            columns.save_columns(place, arrays, facts)
        except OSError as error:
            reason = error.strerror
        else:
            return
    warnings.warn(f"the index cannot be kept in {places[0]} nor {places[1]} ({reason})", stacklevel=3)


def index_shards(paths: Sequence[Path]) -> Indexed:
    """Read shards through: where their images lie, their classes and splits, and what is left out.

    The key of a member is its path up to the first dot of the last part, as in WebDataset. The class of an image
    KEY.jpg is in the member KEY.cls or KEY.json, wherever in the shard that stands: a number, or a name, and names are
    numbered in the order of their bytes; if an image has none, the set has none. Where no image has one, the classes
    are the folders that the images lie in, as with a folder on disk.
    """
    samples = Samples()
    for shard, path in show_progress(enumerate(paths), "indexing shards", len(paths)):
        samples.read_shard(shard, path)
    samples.drop()
    where = str(paths[0] if len(paths) == 1 else paths[0].parent)
    tree = NameTree(where, (inner_path(samples.rows.name(row)) for row in range(len(samples.rows))))
    if beside := tree.annotations():
        _drop_annotations(samples, beside)
    rows, codes = samples.rows, samples.labels()
    labels, classes = number_classes(codes, list(samples.texts))
    if labels is None and (codes >= 0).any():
        lacking = int((codes < 0).sum())
        samples.notes.remark(f"{lacking} of {len(rows)} images in tar files have no class: so there are no labels")
    splits = find_splits(tree, samples.notes)
    runs = _find_runs(rows, splits)
    labelled = dict.fromkeys(splits, labels is not None)
    if labels is None and not (codes >= 0).any():
        codes, texts = _code_by_folders(rows, tree, splits)
        for split, start, stop in runs:
            labelled[split] |= bool(codes[start:stop].min() >= 0)
        for split, start, stop in runs:
            labelled[split] &= bool(codes[start:stop].min() >= 0)
        if runs and any(labelled.values()):
            codes = np.maximum(codes, 0)  # those of other splits are never looked at
        labels, classes = number_classes(codes, texts) if len(texts) > 1 else (None, ())
    parts: Parts = [(split, start, stop, labels is not None and labelled[split]) for split, start, stop in runs]
    return rows, labels, classes, parts, samples.notes


def _drop_annotations(samples: Samples, folders: tuple[bytes, ...]) -> None:
    for row in range(len(samples.rows)):
        name = samples.rows.name(row)
        if inner_path(name).startswith(folders):
            samples.dropped.add(row)
            samples.notes.skip("in folders of masks or annotations", os.fsdecode(name))
    samples.drop()


def inner_path(name: bytes) -> bytes:
    """Return the path of a member within its shard, without parts that lead nowhere (`./`, `../`)."""
    parts = name.partition(b"/")[2].split(b"/")
    return b"/".join(part for part in parts if part not in (b"", b".", b".."))


def _code_by_folders(rows: Rows, tree: NameTree, splits: dict[Split, bytes]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Give images the number of the first folder in their set, or -1 where they lie in none; and the folders."""
    starts = [top + find_start(tree, top) for top in (splits.values() or [b""])]
    codes, texts = np.full(len(rows), -1, np.int64), dict[str, int]()
    for row in range(len(rows)):
        path = inner_path(rows.name(row))
        start = next((start for start in starts if path.startswith(start)), None)
        first, slash, _ = path[len(start or b"") :].partition(b"/")
        if slash and start is not None:
            codes[row] = texts.setdefault(os.fsdecode(first), len(texts))
    return codes, list(texts)


def _find_runs(rows: Rows, splits: dict[Split, bytes]) -> list[tuple[Split, int, int]]:
    """Find the runs of rows that lie in the folder of each split; nothing where all is one set."""
    runs: list[tuple[Split, int, int]] = []
    if len(splits) < 2:
        return runs
    for row in range(len(rows)):
        path = inner_path(rows.name(row))
        split = next((split for split, top in splits.items() if path.startswith(top)), None)
        if split is not None and runs and runs[-1][0] == split and runs[-1][2] == row:
            runs[-1] = (split, runs[-1][1], row + 1)
        elif split is not None:
            runs.append((split, row, row + 1))
    return runs


def part_shards(images: ShardImages, parts: Parts) -> dict[Split, Images]:
    """Divide the images of shards into their splits; without splits all are `train`."""
    runs: dict[Split, list[tuple[int, int]]] = {}
    for split, start, stop, _ in parts:
        runs.setdefault(split, []).append((start, stop))
    if "train" not in runs:
        return {"train": images}
    plain, found = dataclasses.replace(images, labels=None, classes=()), dict[Split, Images]()
    for split in sorted(runs, key=lambda split: split != "train"):
        own = images if all(labelled for other, *_, labelled in parts if other == split) else plain
        if len(runs[split]) == 1:
            found[split] = _cut_out(own, *runs[split][0])
        else:
            found[split] = Subset(own, np.concatenate([np.arange(*run) for run in runs[split]]))
    return found


def _cut_out(images: ShardImages, start: int, stop: int) -> Images:
    """Take rows that follow each other, without copying a column."""
    per_row = ("shard", "offset", "length", "checksum")
    arrays = {**images.arrays, **{name: images.arrays[name][start:stop] for name in per_row}}
    arrays["name_ends"] = images.arrays["name_ends"][start : stop + 1]
    labels = None if images.labels is None else images.labels[start:stop]
    return dataclasses.replace(images, arrays=arrays, labels=labels)


def leave_out(images: Images, exclude: Exclude, notes: Notes) -> Images:
    """Leave out the images of a set whose names fit `--exclude`. Raises BadInputError where none remains."""
    if not exclude.patterns:
        return images
    kept = [row for row in range(len(images)) if not exclude.fits_any_part(os.fsencode(images.name(row)))]
    if not kept:
        raise BadInputError(f"--exclude {' '.join(exclude.patterns)}: leaves none of {len(images)} images")
    if len(kept) < len(images):
        notes.skip("by --exclude", count=len(images) - len(kept))
    return images if len(kept) == len(images) else Subset(images, np.array(kept, np.int64))
