"""The table of a study: a row for each arm and figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moco.study.definition import Arm, Outcome, Study, row_name


@dataclass(frozen=True)
class Row:
    """One arm's figure: what was measured over the seeds, and the paper's number."""

    name: str
    arm: Arm
    outcome: Outcome
    values: tuple[float, ...]
    """The figure of each seed that was trained to the end."""
    diverged: int = 0
    of_seeds: tuple[int, ...] = ()
    """Their seeds; by default 0, 1, ..."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seed of each value."""
        return self.of_seeds or tuple(range(len(self.values)))

    @property
    def mean(self) -> float | None:
        """Return the mean over seeds; None if no seed finished."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None of fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def paper(self) -> float | None:
        """Return the paper's number."""
        return self.outcome.paper if self.outcome.paper is not None else self.arm.paper

    @property
    def series(self) -> str:
        """Return the curve that it belongs to."""
        return self.outcome.series or self.arm.series

    @property
    def x(self) -> float | str:
        """Return its place on the x axis."""
        own = self.outcome.x if self.outcome.x is not None else self.arm.x
        return self.arm.name if own is None else own


def list_rows(study: Study, arms: Sequence[Arm], results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """List one row for each arm and outcome, in the study's order."""
    made = []
    for outcome in study.outcomes:
        for arm in arms:
            own = [result for result in results if result["arm"] == arm.name]
            figures = {result["seed"]: result["figures"].get(outcome.name) for result in own}
            known = {seed: float(value) for seed, value in figures.items() if value is not None}
            diverged = sum(result["state"] == "diverged" for result in own)
            made.append(Row(row_name(study, arm, outcome), arm, outcome, tuple(known.values()), diverged, tuple(known)))
    return made


def list_values(rows: Sequence[Row], images: int | None) -> list[dict[str, Any]]:
    """Return rows as plain values, as study.json and study.csv have them; `images` is the budget of their cells."""
    return [
        {"arm": row.arm.name, "row": row.name, "figure": row.outcome.name, "mean": row.mean, "deviation": row.deviation,
         "seeds": len(row.values), "diverged": row.diverged, "each": list(row.values), "paper": row.paper,
         "recalled": row.arm.recalled, "fails_in_paper": row.arm.fails, "images": images}
        for row in rows
    ]  # fmt: skip


def write_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows of `list_values` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else ["arm"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "each": " ".join(str(value) for value in row["each"])} for row in table)
    return text.getvalue()
