"""The failures that a caller can act on; `cli` turns each into its exit code."""


class BadInputError(ValueError):
    """What was given cannot be used: says what was given, what was expected and what to do (exit code 2)."""


class StalledError(RuntimeError):
    """Another process of the training does not answer (exit code 1)."""


class DivergedError(RuntimeError):
    """The loss or a gradient is no longer finite (exit code 3)."""
