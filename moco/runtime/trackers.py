"""W&B and MLflow as loggers. Where they send figures is set by their own environment variables; imports no torch."""

import importlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "moco"
"""The default project or experiment."""
IDENTITY = re.compile(r"[A-Za-z0-9_-]{1,64}")
MLFLOW_STATES = {"done": "FINISHED", "stopped": "KILLED"}
LONGEST_PARAM = 500
UNKNOWN_TO_MLFLOW = re.compile(r"[^\w\-. /:]")


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told when it begins."""

    folder: Path
    config: Mapping[str, Any]
    """The run's settings, as config.json has them."""
    step: int
    """Steps that the run has made already."""
    identity: str | None = None
    """The logger's name for the run before it was interrupted; None at its start."""


class WandbRun:
    """A run of Weights & Biases. Its x axis is our step, since W&B's own must not go back where a run is resumed."""

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = importlib.import_module("wandb")
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise RuntimeError("not logged in: run wandb login, or set WANDB_MODE=offline")
        self.identity = _sound(run.identity) or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=os.environ.get("WANDB_NAME", run.folder.name),
            id=self.identity, resume="allow", config=dict(run.config), dir=os.environ.get("WANDB_DIR", str(run.folder)),
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.place = f"offline, in {self._run.dir}" if self._run.offline else self._run.url

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures of a step."""
        self._run.log({"step": step, **figures})

    def close(self, state: str) -> None:
        """End the run there."""
        self._run.finish(exit_code=0 if state in ("done", "stopped") else 1)


class MlflowRun:
    """A run of MLflow: in $MLFLOW_TRACKING_URI, else in a database in the run folder."""

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # its lines would stand in ours
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells each step of making its tables
        entities, tracking = importlib.import_module("mlflow.entities"), importlib.import_module("mlflow.tracking")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.absolute() / 'mlflow.db'}"
        self._client, self._metric = tracking.MlflowClient(tracking_uri=uri), entities.Metric
        known = _sound(run.identity)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
        else:
            params = [entities.Param(name, str(value)[:LONGEST_PARAM]) for name, value in run.config.items()]
            known = self._client.create_run(self._find_experiment(), run_name=run.folder.name).info.run_id
            self._client.log_batch(known, params=params)
        self.identity, self.place = str(known), f"run {known} in {uri}"

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures of a step."""
        now = time.time_ns() // 1_000_000
        named = {UNKNOWN_TO_MLFLOW.sub("_", name): value for name, value in figures.items()}
        self._client.log_batch(self.identity, [self._metric(name, value, now, step) for name, value in named.items()])

    def close(self, state: str) -> None:
        """End the run there."""
        self._client.set_terminated(self.identity, MLFLOW_STATES.get(state, "FAILED"))


TRACKERS: dict[str, Callable[[Any], Any]] = {"wandb": WandbRun, "mlflow": MlflowRun}
"""A value of --logger, and the name of its library and its extra -> what begins to log a run."""


def _sound(identity: str | None) -> str | None:
    """An identity from a file, where it is of the form that trackers give."""
    return identity if identity is not None and IDENTITY.fullmatch(identity) else None
