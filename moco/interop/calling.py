"""What errors call weights: the flag that they were given by, and its value."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from moco.errors import BadInputError

WEIGHTS = "--weights"
_flag = ContextVar("flag", default=WEIGHTS)


def given_flag() -> str:
    """Return the flag by which the weights that are being read were given."""
    return _flag.get()


def call(weights: object) -> str:
    """Return what an error calls weights: flag and value, or only the value where there is no flag."""
    return f"{given_flag()} {weights}".lstrip()


@contextmanager
def given_by(flag: str, weights: str) -> Iterator[None]:
    """Let every error that reading weights causes begin with this flag; an empty one stands for an argument."""
    token = _flag.set(flag)
    try:
        yield
    except BadInputError as error:
        said = str(error)
        if flag and not said.startswith(f"{flag} "):  # it begins with a file
            said = f"{flag} {said}" if said.startswith(f"{weights}:") else f"{call(weights)}: {said}"
            raise BadInputError(said) from error
        raise
    finally:
        _flag.reset(token)
