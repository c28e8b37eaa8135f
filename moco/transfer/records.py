"""The lists of a JSON file in COCO's format: numbers, flags and ids, each checked before it is used."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from moco.errors import BadInputError, quote
from moco.runtime.files import read_bounded
from moco.transfer.objects import Flags, Floats, Integers

Records = list[dict[str, Any]]
LARGEST_JSON = 16 << 30
"""Bytes of a file in COCO's format: the largest sets have some gigabytes."""
FLAGS = {"0": False, "1": True, "false": False, "true": True, "none": False, "": False}
"""What stands for no and yes, as text in lower case."""


def read_json(path: Path) -> dict[str, Any]:
    """Read the object that a file holds. Raises BadInputError where it cannot be read, or holds something else."""
    try:
        content = json.loads(read_bounded(path, LARGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: cannot be read as JSON ({error}): replace it") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: expected an object with images, annotations and categories")
    return content


def list_records(content: dict[str, Any], path: Path, key: str) -> Records:
    """Take a list of objects out of the content."""
    records = content.pop(key, None)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadInputError(f"{path}: no list of objects under {quote(key)}, expected COCO's format")
    return records


def read_column(records: Records, key: str, path: Path, what: str, kind: type, width: int = 0) -> Any:
    """Read a number, or `width` of them, of every record. Raises BadInputError naming the first that is none."""
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


def read_flags(records: Records, key: str, path: Path) -> Flags:
    """Read a yes or no of every annotation, which may be text; no where nothing is said."""
    found = [FLAGS.get(str(record.get(key, 0)).strip().lower().removesuffix(".0")) for record in records]
    if None in found:
        row = found.index(None)
        raise BadInputError(f"{path}: annotations[{row}] has {key} {str(records[row][key])[:80]}, expected 0 or 1")
    return np.array(found, bool)


def _sound(values: Floats, kind: type) -> bool:
    """Whether all are finite, and where whole numbers are wanted such as a float holds exactly."""
    if not np.isfinite(values).all():
        return False
    return kind is np.float64 or bool(((values == np.trunc(values)) & (np.abs(values) < 2**53)).all())


class Ids:
    """The entries of a list by their ids: whole numbers of any size, or text; text of digits is a number.

    Raises BadInputError where an id is neither, or two are the same.
    """

    def __init__(self, records: Records, path: Path, what: str, reference: str) -> None:
        self._path, self._as_text = path, False
        ids = [_identify(record.get("id"), f"{path}: {what}[{row}] has id") for row, record in enumerate(records)]
        if len(set(ids)) < len(ids):  # such as "1" and "01"
            self._as_text = True
            ids = [str(record["id"]) for record in records]
        self._rows = {one: row for row, one in enumerate(ids)}
        if len(self._rows) < len(ids):
            raise BadInputError(f"{path}: two entries with the same id, expected one for each {reference}")
        self.order = sorted(range(len(ids)), key=lambda row: (isinstance(ids[row], str), ids[row]))
        """The rows in the order of the ids, numbers first."""
        plain = all(isinstance(one, int) and abs(one) < 2**63 for one in ids)
        self.numbers: Integers = np.array(ids if plain else range(len(ids)), np.int64)
        """The ids (n,), or where these are no numbers the rows."""

    def places(self, records: Records, key: str) -> Integers:
        """Return the row to which each record's `key` refers."""
        try:
            return np.array([self._rows[self._known_as(record[key])] for record in records], np.int64)
        except (KeyError, TypeError):
            pass
        for record in records:
            if key not in record or self._known_as(record[key]) not in self._rows:
                given = str(record.get(key))[:80]
                raise BadInputError(f"{self._path}: an annotation has {key} {given}, which the file does not define")
        raise AssertionError("unreachable: every record refers to a row")

    def _known_as(self, given: Any) -> int | str:
        return str(given) if self._as_text else _identify(given, f"{self._path}: an entry refers to")


def _identify(given: Any, where: str) -> int | str:
    """An id as a number, or as text where it is none."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, float) and math.isfinite(given) and given == int(given):
        return int(given)
    if isinstance(given, str) and given.strip():
        text = given.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 1000 else text
    raise BadInputError(f"{where} {str(given)[:80]}, expected a whole number or text")
