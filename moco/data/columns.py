"""Flat arrays in a folder on disk: written whole or not at all, opened without being read."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from moco.runtime.files import home_folder, read_bounded, require_regular

Column = npt.NDArray[Any]
Facts = dict[str, Any]
"""Facts about the columns as a whole, as JSON."""

VERSION = 1
"""The version of the folder's layout."""
FACTS = "index.json"
LARGEST_FACTS = 1 << 30
REPLACE_TRIES = 5
DAMAGED = (OSError, ValueError, TypeError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError)
"""The errors that json and numpy raise for damaged files: Python's tokenizer reads a header of numpy's."""
MOST_LABELS_CHECKED = 1 << 24
"""The labels of larger sets are not checked when they are opened: that would read all of them."""


def save_columns(place: Path, columns: Mapping[str, Column], facts: Facts) -> None:
    """Write `columns` as NAME.npy and `facts` as index.json into the folder `place`, in place of what is there.

    Readers see the old folder, none, or the new one; each stays readable for those who have it open.
    """
    token = secrets.token_hex(8)
    partial = place.with_name(f".{place.name}.{token}")
    place.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    try:
        for name, column in columns.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, column, allow_pickle=False)
                os.fsync(file.fileno())
        text = json.dumps({**facts, "version": VERSION, "token": token}, indent=1)
        (partial / FACTS).write_text(text, encoding="ascii")
        _replace_folder(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load_columns(place: Path, kinds: Mapping[str, str]) -> tuple[dict[str, Column], Facts] | None:
    """Map the columns of these names and dtypes read-only; None where there is no whole folder of this version."""
    try:
        text = read_bounded(place / FACTS, LARGEST_FACTS)
        facts = json.loads(text)
        columns = {name: map_array(place / f"{name}.npy") for name in kinds}
        same = read_bounded(place / FACTS, LARGEST_FACTS) == text  # otherwise the folder was replaced meanwhile
    except DAMAGED:
        return None
    if not same or not isinstance(facts, dict) or facts.get("version") != VERSION:
        return None
    if any(column.dtype != kinds[name] for name, column in columns.items()):
        return None
    return columns, facts


def map_array(path: Path) -> Column:
    """Map an array read-only. Raises one of DAMAGED where it is missing, cut off, damaged, or no regular file."""
    require_regular(path)  # a pipe would be waited for
    return np.asarray(open_memmap(path, mode="r"))  # an item of the class memmap takes three times as long


def labels_fit(labels: Column, rows: int, classes: object) -> bool:
    """Tell whether there is a class for each label, and a label for each row or none at all."""
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return False
    if not len(labels) or rows > MOST_LABELS_CHECKED:
        return len(labels) in (0, rows)
    return labels.shape == (rows,) and 0 <= int(labels.min()) <= int(labels.max()) < len(classes)


def cache_place(path: Path) -> Path:
    """Name the folder for what cannot lie beside `path`: in $XDG_CACHE_HOME, else ~/.cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache")
    return home / "moco" / "index" / hashlib.sha256(os.path.realpath(os.fsencode(path))).hexdigest()[:32]


def _replace_folder(partial: Path, place: Path) -> None:
    """Rename a folder to a name that may be taken: POSIX replaces only empty folders."""
    old = partial.with_name(partial.name + ".old")
    for tries in range(REPLACE_TRIES):
        try:
            partial.rename(place)
        except OSError:
            if tries == REPLACE_TRIES - 1 or not place.is_dir():
                raise
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                place.rename(old)
        else:
            break
        shutil.rmtree(old, ignore_errors=True)
