"""The evaluations that a study may make of each cell: command lines, read as `moco` reads them before anything runs."""

import contextlib
import io
from collections.abc import Sequence

import tyro

from moco.errors import BadInputError
from moco.evaluation.config import KEPT, KeptConfig
from moco.runtime.fields import check


def evaluation(words: Sequence[str]) -> KeptConfig:
    """Parse a command (name, then flags) into settings; the study supplies weights and data.

    Raises BadInputError for a flag or a value that the command does not take.
    """
    command, *flags = words
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            config = tyro.cli(KEPT[command], args=["--weights", "W", "--data", "D", *flags], prog=command)
    except SystemExit:
        raise BadInputError(f"moco {command} does not take these flags (see moco {command} --help)") from None
    check(config)
    return config
