"""`moco resume`: go on with a run by its own config."""

import dataclasses
import json
from typing import Any

from moco.commands import pretrain, transfer
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig, ResumeConfig
from moco.runtime.configfile import from_json
from moco.transfer.config import TransferConfig


def run(config: ResumeConfig) -> dict[str, Any]:
    """`moco resume`: go on with a run by its own config."""
    path = config.run / "config.json"
    if not path.is_file():
        raise BadInputError(f"{config.run}: no run to go on with, expected a folder with a config.json")
    now: dict[str, Any] = {
        "out": config.run, "json": config.json, "accept_changed_data": config.accept_changed_data,
    }  # fmt: skip
    if config.workers is not None:
        now["workers"] = config.workers
    if is_transfer(path.read_bytes()):
        return transfer.run(dataclasses.replace(from_json(TransferConfig, path.read_bytes(), path), **now))
    settled = from_json(PretrainConfig, path.read_bytes(), path)
    return pretrain.run(dataclasses.replace(settled, **now))


def is_transfer(config: bytes) -> bool:
    """Whether a run's config is that of a transfer: only these have a task."""
    try:
        values = json.loads(config)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "task" in values
