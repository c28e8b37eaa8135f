"""A config as a file: JSON that is data, from which nothing is converted and nothing executed."""

import dataclasses
import json
import math
import os
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from moco.errors import BadInputError, quote
from moco.runtime.fields import Earlier
from moco.runtime.owncode import NamesCode
from moco.runtime.records import require_numbers

Config = TypeVar("Config")
VERSION = 1
"""Version of the format."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
COMMAND = "command"
"""The key of a run's config that names the command; evaluations, which lie in files of their names, have none."""


def to_json(config: Any, command: str | None = None) -> str:
    """Write a config as JSON: the version of the format, its command, then its fields in order."""
    head = {"version": VERSION} if command is None else {"version": VERSION, COMMAND: command}
    return json.dumps({**head, **vars(config)}, indent=2, default=os.fspath) + "\n"


def from_json(kind: type[Config], text: str | bytes, where: Path) -> Config:
    """Read what `to_json` wrote; nothing is converted and nothing executed.

    A field that the file lacks is younger than the file, and has the value that keeps what was done then: its `Earlier`
    one, else its default. A value that older files wrote otherwise is what its `Earlier` says.
    Raises BadInputError naming the key that is unknown, missing without a default or of another type, or the version.
    """
    values = _read(text, where)
    del values["version"]
    values.pop(COMMAND, None)
    hints = typing.get_type_hints(kind)
    values = {**_earlier_values(kind), **values}
    for name, words in _earlier_words(kind).items():
        values[name] = next((now for before, now in words if values[name] is before), values[name])
    for name in sorted(values.keys() ^ hints.keys()):
        raise BadInputError(f"{where}: {'unknown' if name in values else 'missing'} key {quote(name)}")
    for name, hint in hints.items():
        values[name] = convert_value(hint, values[name], f"{where}: {name}")
    require_no_code(kind, values, str(where))
    return kind(**values)


def require_no_code(kind: type[Any], values: Mapping[str, Any], where: str) -> None:
    """Raise BadInputError where a value from a file names code that would be run, which only a command line may."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(part, NamesCode) and name in values and not part.allows(values[name]):
                raise BadInputError(
                    f"{where}: {name} is {_SHORT.repr(values[name])}, which may be code, and only a command line names "
                    f"such: expected {', '.join(part.known)}"
                )


def _earlier_values(kind: type[Any]) -> dict[str, Any]:
    """The values of the fields that a file may lack, as JSON has them."""
    defaults = {one.name: one.default for one in dataclasses.fields(kind) if one.default is not dataclasses.MISSING}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(part, Earlier):
                defaults[name] = part.value
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def _earlier_words(kind: type[Any]) -> dict[str, tuple[tuple[Any, Any], ...]]:
    """The fields whose values older files wrote otherwise, with what they wrote."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        name: part.words for name, hint in hints.items() for part in getattr(hint, "__metadata__", ())
        if isinstance(part, Earlier) and part.words
    }  # fmt: skip


def read_command(text: str | bytes, where: Path) -> str:
    """Read the command that a config file is of; those from before it was written are of `transfer` or `pretrain`.

    Raises BadInputError where the file is no config.
    """
    values = _read(text, where)
    return str(values.get(COMMAND, "transfer" if "task" in values else "pretrain"))


def _read(text: str | bytes, where: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
        require_numbers(values, str(where))
    except BadInputError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, too deep, or not even text
        raise BadInputError(f"{where}: not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise BadInputError(f"{where}: expected a config of version {VERSION}")
    return values


def convert_value(hint: Any, value: Any, where: str) -> Any:
    """Convert a value of JSON or TOML to the type of a field. Raises BadInputError if it has another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(kind for kind in arguments if kind is not types.NoneType)
        return None if value is None else convert_value(hint, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list) and (arguments[-1] is ... or len(value) == len(arguments)):
        return tuple(convert_value(arguments[0], part, where) for part in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = "true or false" if hint is bool else getattr(hint, "__name__", hint)
    raise BadInputError(f"{where} is {_SHORT.repr(value)}, expected {expected}")


def drop_nonfinite(value: Any) -> Any:
    """Return a result with nothing where a number is not finite: JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {name: drop_nonfinite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [drop_nonfinite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
