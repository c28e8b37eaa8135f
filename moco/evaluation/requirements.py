"""Checks what an evaluation requires before it computes anything."""

from pathlib import Path

from moco.errors import BadInputError
from moco.evaluation.config import RANDOM, EmbedConfig, EvaluationConfig
from moco.runtime.files import takes_files
from moco.runtime.idle import Idle

IDLE_IN_LINEAR = (
    Idle(("lr", "epochs"), lambda own: "" if own.protocol == "paper" else "it is for --protocol paper"),
    Idle(("penalties", "views"), lambda own: "" if own.protocol == "fast" else "it is for --protocol fast"),
)
"""Flags of `moco linear` that have no effect with others."""


def require_own_flags(config: EvaluationConfig) -> None:
    """Raise BadInputError where a flag for random weights would be passed over."""
    given = [f"--{name}" for name in ("like", "arch") if getattr(config, name) is not None]
    if given and config.weights != RANDOM:
        raise BadInputError(f"{given[0]} is for --weights random, and --weights is {config.weights}: leave one out")
    if len(given) > 1:
        raise BadInputError("--like and --arch both say which network: leave one out")


def evaluations_folder(config: EvaluationConfig) -> Path | None:
    """Return the folder of the result, with the run's other evaluations; None for weights without a run."""
    keeps = config.weights != RANDOM and not isinstance(config, EmbedConfig) and Path(config.weights).is_dir()
    return Path(config.weights) / "evaluations" if keeps else None


def require_place(config: EvaluationConfig) -> None:
    """Raise BadInputError where the result could not be kept, before it is computed."""
    folder = evaluations_folder(config)
    if folder is not None and not takes_files(folder):
        raise BadInputError(
            f"{folder}: cannot be written, and the result is stored there: make it writable, or give "
            f"--weights {folder.parent / 'encoder.safetensors'}, whose result is only printed"
        )
