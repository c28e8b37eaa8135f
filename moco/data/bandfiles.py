"""Images of several files, one for each band, which have all but their endings in common: s1_B02.tif, s1_B03.tif."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moco.data.images import FileImages, Images, PathTable, as_files
from moco.data.notes import Notes
from moco.data.replacement import list_names
from moco.errors import BadInputError


def group_bands(images: Images, endings: Sequence[str], notes: Notes, data: str) -> FileImages:
    """Make one image of the files that have all but their endings in common, with a channel of each, in this order.

    An ending is that of the whole name, or of the name without `.tif` and the like. Raises BadInputError where an image
    lacks a band, has one twice, or there is none.
    """
    files = as_files(images)
    if files is None:
        raise BadInputError(f"--bands is for a folder or list of files, and --data {data} is none: leave it out")
    if len(set(endings)) < len(endings) or not all(endings):
        raise BadInputError(f"--bands {' '.join(endings)}: expected different endings, such as _B02.tif _B03.tif")
    found, rows, others = dict[bytes, list[int | None]](), dict[bytes, int](), list[str]()
    wanted = [os.fsencode(ending) for ending in endings]
    for row in range(len(files)):
        path = files.paths[row]
        place = _find_band(path, wanted)
        if place is None:
            others.append(files.name(row))
            continue
        band, key = place
        bands = found.setdefault(key, [None] * len(endings))
        if bands[band] is not None:
            raise BadInputError(
                f"--data {data}: {files.name(row)} and {files.name(bands[band] or 0)} are both the band "
                f"{endings[band]} of one image: expected one file a band"
            )
        bands[band] = row
        rows.setdefault(key, row)
    if not found:
        raise BadInputError(f"--data {data}: no file ends in {' or '.join(endings)} (found: {list_names(others)})")
    for key, bands in found.items():
        if None in bands:
            missing = [ending for ending, row in zip(endings, bands, strict=True) if row is None]
            raise BadInputError(
                f"--data {data}: {os.fsdecode(key)} has no file ending in {' nor '.join(missing)}: expected "
                f"{' '.join(endings)} of each image"
            )
    if others:
        notes.skip("file(s) of no band that --bands names", others[0], len(others))
    taken = np.array(list(rows.values()), np.int64)
    tables = tuple(
        PathTable(files.paths[row] for row in (bands[place] for bands in found.values()) if row is not None)
        for place in range(len(endings))
    )
    labels = None if files.labels is None else files.labels[taken]
    if labels is not None and len(np.unique(labels)) == len(labels) > 1:  # a folder for each image is no class
        labels = None
    return replace(
        files,
        paths=PathTable(found),
        labels=labels,
        classes=files.classes if labels is not None else (),
        bands=tables,
    )


def _find_band(path: bytes, endings: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Return the number of the longest ending that fits, and what stands before it; None where none fits."""
    stem = os.path.splitext(path)[0]
    fitting = [
        (len(ending), number, text[: -len(ending)])
        for number, ending in enumerate(endings)
        for text in (path, stem)
        if text.endswith(ending)
    ]
    return max(fitting)[1:] if fitting else None
