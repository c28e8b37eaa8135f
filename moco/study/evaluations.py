"""The evaluations that a study may make of each cell: command lines, read as `moco` reads them before anything runs."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import tyro

from moco.config import KnnConfig, check
from moco.errors import BadInputError
from moco.evaluation.config import FinetuneConfig, LinearConfig, LowshotConfig
from moco.evaluation.few import few

EVALUATIONS: dict[str, Any] = {
    "knn": KnnConfig,
    "linear": LinearConfig,
    "lowshot": LowshotConfig,
    "finetune": FinetuneConfig,
}


def result_name(words: Sequence[str]) -> str:
    """What the file is called that a command (its name, then its flags) leaves in `evaluations/`, without its ending.

    Raises BadInputError for a flag or a value that the command does not take.
    """
    command, *flags = words
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            config = tyro.cli(EVALUATIONS[command], args=["--weights", "W", "--data", "D", *flags], prog=command)
    except SystemExit:
        raise BadInputError(f"moco {command} does not take these flags (see moco {command} --help)") from None
    check(config)
    if isinstance(config, LinearConfig):
        return f"linear-{config.protocol}"
    return f"lowshot-{few(config.labels).name}" if isinstance(config, LowshotConfig) else command
