"""The failures that a caller can act on; `cli` turns each into its exit code."""


def one_line(message: object) -> str:
    """A message on one line, of which a terminal does no more than show it: names of files may hold anything."""
    text = " ".join(str(message).splitlines())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class BadInputError(ValueError):
    """What was given cannot be used: says what was given, what was expected and what to do (exit code 2)."""


class StoppedError(RuntimeError):
    """A signal came, and the state is saved (exit code 75)."""


class StalledError(RuntimeError):
    """Another process of the training does not answer (exit code 1)."""


class NoMemoryError(MemoryError):
    """A step needs more memory than the GPU has: says how much, and what to change (exit code 1)."""


class VoidError(RuntimeError):
    """A check found a result to be wrong, which is therefore not given (exit code 1)."""


class DivergedError(RuntimeError):
    """The loss or a gradient is no longer finite (exit code 3)."""
