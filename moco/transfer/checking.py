"""Annotations against the headers of all images and the pixels of all label images, before a run trains on them."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from moco.data.images import FileImages
from moco.data.named import data_home
from moco.errors import BadInputError
from moco.runtime.device import cores
from moco.runtime.files import read_bounded, replace_file
from moco.runtime.phases import say_if_slow
from moco.transfer.examples import Examples, describe_size
from moco.transfer.headers import FIRST_TURNED, Header, read_header
from moco.transfer.targets import VOID

VERSION = 2
"""Number of the rules: files that older rules let pass are looked at again."""
NAMED = 8
"""Classes that are named in a line, at most."""


def check_examples(data: str, train: Examples, test: Examples, files: FileImages) -> None:
    """Warn of what is doubtful in a run's images and annotations; the same files are looked at once.

    Raises BadInputError, naming the first file, where sizes differ, or the training images show fewer than two classes.
    """
    kept = data_home() / "checked" / f"{_digest(data, files, train, test)}.json"
    found = _read_kept(kept)
    if found is None:
        with say_if_slow(f"comparing {len(train) + len(test)} images with their annotations"):
            found = [*_check(data, "training", train), *_check(data, "test", test)]
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            replace_file(kept, json.dumps(found).encode())
        except (OSError, BadInputError):
            pass  # a folder that cannot be written to: they are looked at again
    for text in found:
        warnings.warn(text, stacklevel=2)


def _digest(data: str, files: FileImages, *parts: Examples) -> str:
    """What tells these files from others, and from what they were before.

    A run's fingerprint is not enough: files out of an archive have its times, and masks of one size are many. The
    system itself sets inode and time of change of the entry, so no copy has those of another.
    """
    sha = hashlib.sha256(f"{VERSION} {Path(data).absolute()}".encode("utf-8", "surrogateescape"))
    for examples in parts:
        colours = getattr(examples.annotations, "colours", None)
        told = (examples.rules, examples.kind, len(examples), examples.classes, colours)
        sha.update(repr(told).encode("utf-8", "replace"))
    for row in range(len(files)):
        path = os.path.join(os.fsencode(data), os.fsencode(files.name(row)))
        found = os.stat(path)
        sha.update(path)
        sha.update(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}".encode())
    return sha.hexdigest()


def _read_kept(path: Path) -> list[str] | None:
    try:
        found = json.loads(read_bounded(path))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else None


def _check(data: str, split: str, examples: Examples) -> list[str]:
    """What is doubtful in a split."""
    found = _check_sizes(data, split, examples)
    return [*found, *_check_classes(data, split, examples)] if examples.kind == "semantic" else found


def _check_sizes(data: str, split: str, examples: Examples) -> list[str]:
    """Raise BadInputError where an image is not as large as annotated; say how those with an EXIF tag are read.

    An image that the tag turns is read as it is stored where only that has the size of its annotation.
    """
    rows = range(len(examples))
    headers: list[Header] = _in_parallel(lambda row: read_header(examples.name(row)), rows)
    expected: list[tuple[int, int]] = _in_parallel(examples.size, rows)
    other = [row for row in rows if headers[row].size != expected[row]]
    stored = [row for row in other if headers[row].stored == expected[row]]
    wrong = sorted({*other}.difference(stored))
    if wrong:
        row = wrong[0]
        raise BadInputError(
            f"{examples.name(row)}: {describe_size(headers[row].size, expected[row])}{_count_further(wrong, split)}: "
            f"replace the image or correct the annotation"
        )
    doubtful = [row for row in rows if headers[row].orientation > 1 and not _tells_turned(headers[row])]
    if stored and doubtful:
        raise BadInputError(
            f"{examples.name(doubtful[0])}: an EXIF tag turns or mirrors it{_count_further(doubtful, split)}; its size "
            f"does not tell whether it was annotated before that, as {examples.name(stored[0])} was: remove the tag "
            f"where it was (exiftool -Orientation= FILE)"
        )
    if stored:
        return [
            f"{data}: {len(stored)} {split} images are read as they are stored although their EXIF tag turns them, "
            f"because their annotations have the stored size, the first is {examples.name(stored[0])}"
        ]
    if not doubtful:
        return []
    return [
        f"{data}: an EXIF tag turns or mirrors {len(doubtful)} {split} images whose sizes do not tell whether they "
        f"were annotated before or after that, the first is {examples.name(doubtful[0])}: they are read upright"
    ]


def _count_further(rows: Sequence[int], split: str) -> str:
    return f", and {len(rows) - 1} further {split} images" if len(rows) > 1 else ""


def _tells_turned(header: Header) -> bool:
    """Whether the size, being as annotated, shows that the annotations are of the upright image."""
    return header.orientation >= FIRST_TURNED and header.size[0] != header.size[1]


def _check_classes(data: str, split: str, examples: Examples) -> list[str]:
    """Raise BadInputError where fewer than two classes have pixels; name those that have none."""
    if not len(examples):
        raise BadInputError(f"{data}: no {split} images, expected at least one: correct the list of the split")
    counts: Any = sum(
        _in_parallel(
            lambda row: np.bincount(examples.target(row).flatten().numpy(), minlength=VOID + 1), range(len(examples))
        )
    )
    classes, total = examples.classes, int(np.sum(counts))
    shown = [(name, int(counts[label])) for label, name in enumerate(classes)]
    pixels = ", ".join(f"{name} {count / total:.1%}" for name, count in [*shown, ("void", int(counts[VOID]))] if count)
    present = [name for name, count in shown if count]
    if len(present) < 2 and split == "training":
        advice = (
            f": {VOID} is void; where it is a class, write 1 for it" if counts[VOID] else ": correct the label images"
        )
        raise BadInputError(
            f"{data}: the {split} images show {len(present)} of {len(classes)} classes ({pixels}), expected at "
            f"least two{advice}"
        )
    absent = [name for name, count in shown if not count]
    if not absent:
        return []
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return [f"{data}: no pixel of {', '.join(absent[:NAMED])}{more} in the {split} images ({pixels})"]


def _in_parallel(do: Callable[[int], Any], rows: Sequence[int]) -> list[Any]:
    """What each row gives, in order; the first error ends it."""
    with ThreadPoolExecutor(cores()) as pool:
        try:
            return list(pool.map(do, rows, chunksize=16))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
