"""A run folder -> what the page shows of it; whatever is missing or damaged is left out, and said so."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.report.markup import number
from moco.runtime.configfile import VERSION, from_json
from moco.runtime.fields import check
from moco.runtime.folder import read_status
from moco.runtime.records import read_object, read_records

LARGEST_POWER = 700.0
"""Exponent of e up to which it is a finite number; no loss of ours lies beyond it."""
LARGEST_SETTING = 2**63
"""A whole number beyond it is no setting of ours."""
GALLERY = "gallery"
Point = tuple[float, float | None]
"""A place on the x axis, and a figure; None where it was not finite."""


@dataclass(frozen=True)
class Run:
    """What was read from one run folder."""

    name: str
    config: dict[str, Any]
    status: dict[str, Any]
    machine: dict[str, Any]
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl, in their order."""
    evaluations: dict[str, dict[str, Any]]
    """The content of evaluations/, by file name, without the gallery."""
    gallery: dict[str, Any] = field(default_factory=dict)
    """Empty if there is none."""
    notes: tuple[str, ...] = ()
    """What could not be read, or was left out and why."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """What `moco pretrain auto` chose and why (auto.json); empty for other runs."""

    def series(self, name: str, over: str = "step") -> list[Point]:
        """Return the figures of one name over steps, or over minutes (`time`)."""
        scale = 1 / 60 if over == "time" else 1.0
        points = []
        for line in self.metrics:
            place = number(line.get(over))
            if name in line and place is not None:
                points.append((place * scale, number(line[name])))
        return points

    def last(self, name: str) -> float | None:
        """Return the latest finite figure of a name."""
        return next((value for _, value in reversed(self.series(name)) if value is not None), None)

    @property
    def state(self) -> str:
        """Return `done`, `running`, `killed`, `stopped`, `failed`, `diverged` or `unknown`."""
        state = self.status.get("state")
        return state if state in ("done", "running", "killed", "stopped", "failed", "diverged") else "unknown"

    @property
    def step(self) -> int:
        """Return the last known step."""
        steps = [number(self.status.get("step"))] + [number(line.get("step")) for line in self.metrics[-5:]]
        return int(max((step for step in steps if step is not None), default=0))

    @property
    def steps(self) -> int | None:
        """Return the length that the run was asked for."""
        steps = number(self.config.get("max_steps"))
        return None if steps is None else int(steps)

    @property
    def seconds(self) -> float | None:
        """Time of the training, without pauses between its parts."""
        result = self.status.get("result")
        stored = number(result.get("seconds")) if isinstance(result, dict) else None
        return (
            stored
            if stored is not None
            else next((s for s in map(_time, reversed(self.metrics)) if s is not None), None)
        )

    @property
    def choices(self) -> int | None:
        """Return how many keys a query chooses from, by the chance loss."""
        chance = self.last("chance_loss")
        return None if chance is None else round(math.exp(min(chance, LARGEST_POWER)))

    @property
    def mixed(self) -> int:
        """Return how many of these keys are mixed from others for each query (hard negatives)."""
        return sum(int(number(self.config.get(name)) or 0) for name in ("mix", "mix_query"))

    @property
    def images(self) -> int | None:
        """Return the number of training images by step, batch and epoch (rounded to three digits in a short run)."""
        splits = self.gallery.get("splits")
        stored = [number(splits.get(name)) for name in ("train", "unlabeled")] if isinstance(splits, dict) else [None]
        if stored[0] is not None and self.gallery.get("data") == self.config.get("data"):
            return sum(int(count or 0) for count in stored)
        batch = number(self.config.get("batch_size"))
        for line in reversed(self.metrics):
            step, epoch = number(line.get("step")), number(line.get("epoch"))
            if step and epoch and batch:
                found = number(step * batch / epoch)
                return None if found is None else round(found)
        return None

    @property
    def knn(self) -> list[tuple[float, float]]:
        """Step and kNN accuracy of each look of the monitor."""
        return [(step, value) for step, value in self.series("knn_top1") if value is not None and 0 <= value <= 100]

    @property
    def knn_before(self) -> float | None:
        """Return the kNN accuracy before the first step, if it was measured then and later."""
        return self.knn[0][1] if len(self.knn) > 1 and self.knn[0][0] == 0 else None

    @property
    def queries(self) -> int | None:
        """Return how many images the monitor classified; in an older run, as its settings and splits say."""
        stored = self.last("knn_queries")
        if stored is not None:
            return max(1, int(stored))
        splits = self.gallery.get("splits")
        validation = number(splits.get("val")) if isinstance(splits, dict) else None
        there = validation or (None if self.images is None else self.images // 10)
        most = number(self.config.get("knn_images"))
        return None if there is None or most is None else max(1, min(int(there), int(most) // 5))


def read_run(folder: Path, more_notes: tuple[str, ...] = ()) -> Run:
    """Read a run folder. Raises BadInputError where it is none: no config.json in it."""
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{folder}: no run to report, expected a folder with a config.json")
    notes = list(more_notes)

    def read(path: Path) -> dict[str, Any]:
        try:
            return read_object(path)
        except FileNotFoundError:
            return {}
        except (OSError, BadInputError) as error:
            notes.append(f"{path.name} could not be read ({str(error).removeprefix(f'{path}: ')})")
            return {}

    evaluations = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        content = read(path)
        if content:
            evaluations[path.stem] = content
    path, metrics = folder / "metrics.jsonl", list[dict[str, Any]]()
    try:
        metrics = list(read_records(path))
    except (OSError, BadInputError) as error:
        notes.append(f"metrics.jsonl could not be read ({str(error).removeprefix(f'{path}: ')})")
    if not metrics and not any(note.startswith("metrics.jsonl") for note in notes):
        notes.append("there are no lines of metrics yet")
    config, machine = read(folder / "config.json"), read(folder / "machine.json")
    status = {**read(folder / "status.json"), **read_status(folder)}
    stored = evaluations.pop(GALLERY, {})
    chosen = read(folder / "auto.json")
    return Run(folder.resolve().name, config, status, machine, metrics, evaluations, stored, tuple(notes), chosen)


def _time(line: dict[str, Any]) -> float | None:
    return number(line.get("time"))


def read_config(values: Mapping[str, Any], where: Path) -> PretrainConfig:
    """Read the settings of a run, resolved, from its config.json; fields that an older run lacks have their defaults.

    Raises BadInputError where a value is missing, of another type or out of range.
    """
    fields = {field.name: field.default for field in dataclasses.fields(PretrainConfig)}
    defaults = {name: default for name, default in fields.items() if default is not dataclasses.MISSING}
    given = {name: value for name, value in values.items() if name in fields}
    for name in ("max_steps", "lr"):
        if given.get(name) is None:
            raise BadInputError(f"{where}: {name} is missing, expected the settings of a run that has begun")
    for name, value in given.items():
        if isinstance(value, int) and abs(value) > LARGEST_SETTING:
            raise BadInputError(f"{where}: {name} is too large, expected at most {LARGEST_SETTING}")
    config = from_json(PretrainConfig, json.dumps({"version": VERSION, **defaults, **given}), where)
    check(config)
    return config


def distinct_names(runs: list[Run]) -> list[Run]:
    """Return the runs, those of equal names numbered."""
    names = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=f"{run.name} ({names[: i + 1].count(run.name)})")
        if names.count(run.name) > 1
        else run
        for i, run in enumerate(runs)
    ]
