"""Code of the user's own: FILE.py:FUNCTION, which a command line names; a file only ever tells that there was some."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.errors import BadInputError, one_line
from moco.runtime.files import read_bounded

OWN = "own:"
"""Stands before the name and digest of a user's own function, which is never loaded by them."""


@dataclass(frozen=True)
class NamesCode:
    """Marks a field whose value may be FILE.py:FUNCTION on a command line; in a config.json it never is."""

    known: tuple[str, ...]
    """The values that name none."""

    def allows(self, value: object) -> bool:
        """Tell whether a value from a file names no code that would be run."""
        values = value if isinstance(value, list | tuple) else [value]
        return all(one in self.known or (isinstance(one, str) and one.startswith(OWN)) for one in values)


@dataclass(frozen=True)
class OwnCode:
    """A function of the user's own."""

    function: Callable[..., Any]
    stored: str
    """What a run's config says of it: the function's name and the SHA-256 of its file."""


def load_own_code(flag: str, given: str, known: tuple[str, ...], call: str) -> OwnCode:
    """Run the Python file of FILE.py:FUNCTION and take the function, which is called as `call` says.

    Raises BadInputError where there is no such file or function, where the file fails, and where nothing of this form
    is given.
    """
    file, colon, name = given.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise BadInputError(f"{flag} {given}: expected one of {', '.join(known)}, or FILE.py:FUNCTION")
    try:
        content = read_bounded(path)
    except OSError as error:
        raise BadInputError(f"{flag} {given}: {path} cannot be read ({error.strerror})") from error
    except BadInputError as error:
        raise BadInputError(f"{flag} {given}: {error}") from error
    spec = importlib.util.spec_from_file_location(f"moco_{flag.strip('-')}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where loading processes that are not forked look for the function
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise BadInputError(f"{flag} {given}: {path} fails: {type(error).__name__}: {one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInputError(f"{flag} {given}: {path} has no function {name}: expected def {name}{call}")
    return OwnCode(function, f"{OWN}{name}@sha256:{hashlib.sha256(content).hexdigest()}")


def name_own(stored: str) -> str:
    """Return the function's name of what a run's config says."""
    return stored.removeprefix(OWN).partition("@")[0]
