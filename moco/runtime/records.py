"""What the files of a run and a user's JSON say: numbers that are some, records that are whole, of bounded size."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moco.errors import BadInputError, one_line
from moco.runtime.files import open_bounded, read_bounded

LARGEST_LOG = 512 << 20
"""Largest size of a log in bytes: a line takes some 400, and a long run has 100,000."""
MOST_LINES = 1_000_000
LONGEST_LINE = 1 << 20
"""Bytes of a line of a log."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON as its standard has it. Raises ValueError for NaN, Infinity, and numbers beyond fp64's range."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_parse_float, parse_int=_parse_int)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises BadInputError where it holds none, is too large or is no regular file, and OSError where it cannot be read.
    """
    content = read_bounded(path)
    try:
        values = parse_json(content)
    except ValueError as error:
        with contextlib.suppress(RecursionError):
            _require_own_numbers(content, str(path))
        raise BadInputError(f"{path}: not JSON ({one_line(error)})") from error
    if not isinstance(values, dict):
        raise BadInputError(f"{path}: expected a JSON object")
    return values


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a log, one JSON object each, of which one that is damaged or half written is passed over.

    A line whose `step` or `time` is no number that these can be is damaged too. Raises BadInputError where the log is
    too large or no regular file; there is none where there is no file.
    """
    try:
        file = open_bounded(path, LARGEST_LOG)
    except FileNotFoundError:
        return
    with file:
        for count in range(MOST_LINES + 1):
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            if count == MOST_LINES:
                raise BadInputError(f"{path}: has more than {MOST_LINES} lines: move it away, or shorten it")
            values = _record(line)
            if values is not None:
                yield values


def require_numbers(value: Any, where: str) -> None:
    """Raise BadInputError naming the place of a number that is not finite, or of a whole one of more than 64 bits."""
    if isinstance(value, dict | list):
        for key, own in value.items() if isinstance(value, dict) else enumerate(value):
            require_numbers(own, f"{where}: {key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadInputError(f"{where} is {value}, expected a finite number")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise BadInputError(f"{where} is a whole number of more than 64 bits")


def _require_own_numbers(content: bytes, where: str) -> None:
    """Raise BadInputError naming the place of a number that is none; nothing where it is no JSON otherwise."""
    try:
        values = json.loads(content)
    except ValueError:
        return
    require_numbers(values, where)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        values = parse_json(line)
    except ValueError:  # also of bytes that are not text
        return None
    if not isinstance(values, dict):
        return None
    step, time = values.get("step", 0), values.get("time", 0)
    whole = type(step) is int and step >= 0 and type(time) in (int, float) and time >= 0
    return values if whole else None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _parse_int(text: str) -> int:
    value = int(text) if len(text) <= sys.float_info.max_10_exp else None
    if value is None:
        raise ValueError(f"{text[:20]}... is too large")
    return value
