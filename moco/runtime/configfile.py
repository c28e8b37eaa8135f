"""A config as a file: JSON that is data, from which nothing is converted and nothing executed."""

import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from moco.errors import BadInputError

Config = TypeVar("Config")
VERSION = 1
"""Of the format."""


def to_json(config: Any) -> str:
    """A config as JSON, in the order of its fields, with the version of the format."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}
    return json.dumps({"version": VERSION, **values}, indent=2) + "\n"


def from_json(kind: type[Config], text: str | bytes, where: Path) -> Config:
    """Read what `to_json` wrote; nothing is converted and nothing executed.

    Raises BadInputError naming the key that is unknown, missing or of another type, or the version.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, too deep, or not even text
        raise BadInputError(f"{where}: not JSON ({error})") from error
    if not isinstance(values, dict) or values.pop("version", None) != VERSION:
        raise BadInputError(f"{where}: expected a config of version {VERSION}")
    hints = typing.get_type_hints(kind)
    for name in sorted(values.keys() ^ hints.keys()):
        raise BadInputError(f"{where}: {'unknown' if name in values else 'missing'} key {name!r}")
    for name, hint in hints.items():
        values[name] = converted(hint, values[name], f"{where}: {name}")
    return kind(**values)


def converted(hint: Any, value: Any, where: str) -> Any:
    """A value of JSON or TOML as the type that a field asks for. Raises BadInputError where it is of another."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # of a Literal it is the latter
        hint = next(kind for kind in arguments if kind is not types.NoneType)
        return None if value is None else converted(hint, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list) and (arguments[-1] is ... or len(value) == len(arguments)):
        return tuple(converted(arguments[0], part, where) for part in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise BadInputError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}")


def finite(value: Any) -> Any:
    """A result with nothing where a number is not finite: JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {name: finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
