"""Where a long training on labels is kept until its result is: a file beside the run's other evaluations."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from moco.data.fingerprint import fingerprint
from moco.data.images import Images
from moco.data.replacement import Damage, Replaced
from moco.errors import StoppedError
from moco.evaluation.config import FinetuneConfig, KeptConfig, LinearConfig, result_name
from moco.evaluation.requirements import evaluations_folder
from moco.runtime.checkpoint import StateFile
from moco.runtime.configfile import to_json
from moco.runtime.run import Run
from moco.runtime.runlog import RunLog
from moco.runtime.scaling import IDLE
from moco.runtime.signals import EXIT_CODE

ENDING = ".unfinished.safetensors"
SAVE_EVERY = 600.0
"""Seconds between two saves: what a crash can cost."""
FREE = frozenset(
    {"weights", "data", "like", "baseline", "baselines", "supervised_epochs", "save", "workers", "threads", "json"}
)
"""Settings that may change when a training continues; weights and images are identified by content."""


def locate_state(
    config: LinearConfig | FinetuneConfig, backbone: str, train: Images, part: str = ""
) -> StateFile | None:
    """Return the place for the training state of the backbone of this digest; None for weights without a run."""
    folder = evaluations_folder(config)
    if folder is None:
        return None
    settings = {name: value for name, value in json.loads(to_json(config)).items() if name not in FREE}
    seen, labels = fingerprint(train), b"" if train.labels is None else train.labels.tobytes()
    images = hashlib.sha256(seen.names.tobytes() + seen.contents.tobytes() + labels).hexdigest()
    about = {"settings": settings, "backbone": backbone, "images": [seen.kind, seen.images, images]}
    return StateFile(folder / f"{result_name(config)}{part}{ENDING}", about)


def remove_states(config: KeptConfig, folder: Path) -> None:
    """Remove what was left of the trainings of an evaluation, whose result is kept now."""
    for path in folder.glob(f"{result_name(config)}*{ENDING}"):
        path.unlink(missing_ok=True)


def build_run(
    title: str, state: StateFile | None, modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD, steps: int,
    scaler: GradScaler = IDLE,
) -> Run:  # fmt: skip
    """Build the run of a training on labels, which has no folder of its own and logs nothing."""
    described = {} if state is None else {"about": state.about}
    return Run(title, modules, optimizer, RunLog(Path(), steps, active=False), state, described, scaler=scaler)


def is_save_due(run: Run) -> bool:
    """Return whether the last state was saved so long ago that it is time for the next."""
    return run.saved_before(SAVE_EVERY)


def require_end(run: Run, state: StateFile | None, result: Mapping[str, Any]) -> None:
    """Raise StoppedError where a training, of which this is the result, was stopped by a signal."""
    if result.get("exit_code") == EXIT_CODE:
        name = run.name if state is None else state.file.name.removesuffix(ENDING)
        done = f"after step {result['step']} of {run.log.steps}, saved" if result["step"] else "before a step was saved"
        raise StoppedError(f"{name}: stopped {done}: continue with the same command")


def warn_of_damage(damage: Damage, replaced: Sequence[Replaced]) -> None:
    """Warn of the images of a batch, on any rank, that others stand in for: once each."""
    for one in damage.gather(replaced):
        warnings.warn(one.sentence, stacklevel=2)
