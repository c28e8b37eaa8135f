"""A run folder -> what the page shows of it; whatever is missing or damaged is left out, and said so."""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.report.markup import number

LARGEST_FILE = 64 << 20
"""Bytes of a JSON file beyond which it is none of ours."""
LARGEST_POWER = 700.0
"""Of e in floating point; a loss beyond it is none of ours."""
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
    """What lies in evaluations/, by the name of the file, without the gallery."""
    gallery: dict[str, Any] = field(default_factory=dict)
    """Empty where there is none."""
    notes: tuple[str, ...] = ()
    """What could not be read, or was left out and why."""

    def series(self, name: str, over: str = "step") -> list[Point]:
        """The figures of one name over steps, or over minutes (`time`)."""
        scale = 1 / 60 if over == "time" else 1.0
        points = []
        for line in self.metrics:
            place = number(line.get(over))
            if name in line and place is not None:
                points.append((place * scale, number(line[name])))
        return points

    def last(self, name: str) -> float | None:
        """The latest finite figure of a name."""
        return next((value for _, value in reversed(self.series(name)) if value is not None), None)

    @property
    def state(self) -> str:
        """`done`, `running`, `stopped`, `diverged` or `unknown`."""
        state = self.status.get("state")
        return state if state in ("done", "running", "stopped", "diverged") else "unknown"

    @property
    def step(self) -> int:
        """The last step that is known of."""
        steps = [number(self.status.get("step"))] + [number(line.get("step")) for line in self.metrics[-5:]]
        return int(max((step for step in steps if step is not None), default=0))

    @property
    def steps(self) -> int | None:
        """The length of the run that was asked for."""
        steps = number(self.config.get("max_steps"))
        return None if steps is None else int(steps)

    @property
    def seconds(self) -> float | None:
        """Time of the training, without pauses between its parts."""
        result = self.status.get("result")
        told = number(result.get("seconds")) if isinstance(result, dict) else None
        return (
            told if told is not None else next((s for s in map(_time, reversed(self.metrics)) if s is not None), None)
        )

    @property
    def choices(self) -> int | None:
        """Keys among which each query is to find its own, as they follow from the chance loss."""
        chance = self.last("chance_loss")
        return None if chance is None else round(math.exp(min(chance, LARGEST_POWER)))

    @property
    def mixed(self) -> int:
        """How many of them are mixed of others for each query (hard negatives)."""
        return sum(int(number(self.config.get(name)) or 0) for name in ("mix", "mix_query"))

    @property
    def images(self) -> int | None:
        """Training images, as they follow from step, batch and epoch (rounded to three digits in a short run)."""
        splits = self.gallery.get("splits")
        told = number(splits.get("train")) if isinstance(splits, dict) else None
        if told is not None and self.gallery.get("data") == self.config.get("data"):
            return int(told)
        batch = number(self.config.get("batch_size"))
        for line in reversed(self.metrics):
            step, epoch = number(line.get("step")), number(line.get("epoch"))
            if step and epoch and batch:
                return round(step * batch / epoch)
        return None


def read_run(folder: Path, more_notes: tuple[str, ...] = ()) -> Run:
    """Read a run folder. Raises BadInputError where it is none: no config.json in it."""
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{folder}: no run to report, expected a folder with a config.json")
    notes = list(more_notes)

    def read(path: Path) -> dict[str, Any]:
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError("too large")
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            notes.append(f"{path.name} could not be read ({error})")
            return {}
        return content

    evaluations = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        content = read(path)
        if content:
            evaluations[path.stem] = content
    metrics = list(_metrics(folder / "metrics.jsonl"))
    if not metrics:
        notes.append("there are no lines of metrics yet")
    config, status, machine = (read(folder / f"{name}.json") for name in ("config", "status", "machine"))
    stored = evaluations.pop(GALLERY, {})
    return Run(folder.resolve().name, config, status, machine, metrics, evaluations, stored, tuple(notes))


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole: a run that is still going on may be writing the last."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(values, dict):
                yield values


def _time(line: dict[str, Any]) -> float | None:
    return number(line.get("time"))


def distinct_names(runs: list[Run]) -> list[Run]:
    """The runs, those of equal names numbered."""
    names = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=f"{run.name} ({names[: i + 1].count(run.name)})")
        if names.count(run.name) > 1
        else run
        for i, run in enumerate(runs)
    ]
