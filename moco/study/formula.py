"""The formula for memory against the measurement: one constant is fitted on small batches, large ones are predicted."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco.report.markup import show
from moco.study.rows import Row

KEY = "run.peak_memory_mib"
TRUSTED = 10.0
"""Percent by which the formula may miss what the largest batches take beyond the constant."""


@dataclass(frozen=True)
class Prediction:
    """What the formula and the constant say of an arm, in MiB, beside what was measured."""

    row: str
    measured: float
    predicted: float
    held_out: bool
    """It is the largest batch of its curve, and the constant was not fitted on it."""
    beyond: float
    """What was measured beyond the constant."""

    @property
    def error(self) -> float:
        """Return the error in percent of what was measured."""
        return 100 * (self.predicted / self.measured - 1)

    @property
    def own_error(self) -> float:
        """Return the error in percent of what the formula is about: what was measured beyond the constant."""
        return 100 * (self.predicted - self.measured) / abs(self.beyond) if self.beyond else 0.0


@dataclass(frozen=True)
class Check:
    """The formula against all arms."""

    constant: float
    """MiB that the formula leaves out, for example libraries and images."""
    predictions: tuple[Prediction, ...]

    @property
    def worst(self) -> Prediction:
        """Return the prediction that misses most, of those for which the constant was not fitted."""
        return max((one for one in self.predictions if one.held_out), key=lambda one: abs(one.own_error))

    @property
    def trusted(self) -> bool:
        """Return whether the worst is close enough."""
        return abs(self.worst.own_error) <= TRUSTED

    @property
    def sentence(self) -> str:
        """Say whether the extrapolation is to be trusted."""
        error, row = self.worst.own_error, self.worst.row
        trust = f"trust the extrapolation within {TRUSTED:g}%" if self.trusted else "do not trust the extrapolation"
        return (
            f"The formula for memory, with a constant fitted on the smaller batches ({show(self.constant, 0)} MiB), "
            f"misses the largest batches by up to {show(abs(error), 0)}% of what they take beyond it (too "
            f"{'much' if error > 0 else 'little'} for {row}): {trust}."
        )


def check_formula(rows: Sequence[Row], formula: Mapping[str, Mapping[str, Any]]) -> Check | None:
    """Predict each arm's peak memory M from the formula's F: M = constant + F, in MiB.

    `formula` has `bytes` and `batch` of each arm. The constant is the mean of M - F over the arms that do not have the
    largest batch of their curve; the answer is None where there is no such arm.
    """
    known = [(row, row.mean, formula[row.arm.name]["bytes"] / 2**20, formula[row.arm.name]["batch"]) for row in rows
             if row.outcome.key == KEY and row.mean is not None and row.arm.name in formula]  # fmt: skip
    curves = {row.series: [batch for other, _, _, batch in known if other.series == row.series] for row, *_ in known}
    fitted = [mean - own for row, mean, own, batch in known if batch < max(curves[row.series])]
    if not fitted:
        return None
    constant = statistics.fmean(fitted)
    predictions = (
        Prediction(row.name, mean, constant + own, min(curves[row.series]) < batch == max(curves[row.series]),
                   mean - constant)
        for row, mean, own, batch in known
    )  # fmt: skip
    return Check(constant, tuple(predictions))


def add_predictions(table: Sequence[dict[str, Any]], check: Check | None) -> None:
    """Add to each row of the table what is predicted of it, and the error in percent; nothing without a check."""
    own = {} if check is None else {one.row: one for one in check.predictions}
    for row in table if own else ():
        one = own.get(row["row"])
        row["predicted"] = None if one is None else round(one.predicted, 1)
        row["error_percent"] = None if one is None else round(one.error, 1)
        row["held_out"] = None if one is None else one.held_out
