"""The findings of a run's health: those that it stored; for an older run, what the same judge finds in its figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.pretraining.health import (
    CAUSES,
    HEALTHY,
    SEVERITY,
    Condition,
    describe_findings,
    diagnose,
    judge_features,
)
from moco.report.markup import number, to_plain_text
from moco.report.runs import Run, read_config

FIGURES = (
    "loss", "chance_loss", "contrast_accuracy", "filled", "epoch", "effective_rank", "head_uniformity", "uniformity",
    "new_keys_own", "old_keys_own", "blank_views", "dark_views",
)  # fmt: skip
"""What the judge knows of a run, beside kNN accuracy."""
ENOUGH_IMAGES = 32
"""Fewer have a low effective rank by their number alone."""
LONGEST_TEXT = 2000
"""Characters of a run's own words that are repeated."""


@dataclass(frozen=True)
class Health:
    """What was found of a run after `step` steps: names with what each means for it, and the words for a person."""

    conditions: dict[str, Condition]
    text: str
    step: int

    @property
    def condition(self) -> Condition:
        """Return the worst condition; "healthy" if nothing was found."""
        return max(self.conditions.values(), key=SEVERITY.index, default=HEALTHY)

    @property
    def cause(self) -> str:
        """Return the first of the worst as a clause; an unknown name stands for itself."""
        name = next((name for name, own in self.conditions.items() if own == self.condition), HEALTHY)
        return CAUSES.get(name, to_plain_text(name))


def health_of(run: Run) -> Health:
    """Read what the run found of itself, or judge the last figures of a run that is older than such records.

    The effective rank that the gallery holds, of the backbone's features, is known to reports alone: it is judged by
    the same function as the run's own.
    """
    stored = _stored(run)
    rank, images = (number(run.gallery.get(name)) for name in ("effective_rank", "queries"))
    own = {} if rank is None or (images or 0) < ENOUGH_IMAGES else {"effective_rank": rank}
    if stored is None:
        return _judged(run, own)
    found = judge_features(run.step, own)
    if not found or "collapsed" in stored.conditions:
        return stored
    said = f"{stored.text} {describe_findings(found)}" if stored.conditions else describe_findings(found)
    return Health({**stored.conditions, **{one.name: one.condition for one in found}}, said, stored.step)


def _stored(run: Run) -> Health | None:
    """The run's last record of its health; None where it has none that says what each finding means."""
    line = next((line for line in reversed(run.metrics) if "health" in line), dict[str, Any]())
    names, conditions, text, step = (line.get(name) for name in ("findings", "conditions", "health", "step"))
    if not (isinstance(names, list) and isinstance(conditions, list) and isinstance(text, str) and number(step)):
        return None
    if len(names) != len(conditions) or not all(isinstance(name, str) for name in names):
        return None
    if not all(own in SEVERITY for own in conditions):
        return None
    return Health(dict(zip(names, conditions, strict=True)), to_plain_text(text, LONGEST_TEXT), int(number(step) or 0))


def _judged(run: Run, own: dict[str, float]) -> Health:
    """Judge the last figures of a run, and the report's own where the run has none of that name."""
    try:
        config = read_config(run.config, Path("config.json"))
    except BadInputError as error:
        said = f"The settings of the run cannot be read, so its figures cannot be judged ({error})."
        return Health({"its settings cannot be read": "undecided"}, to_plain_text(said, LONGEST_TEXT), run.step)
    figures = own | {name: value for name in FIGURES if (value := run.last(name)) is not None}
    if run.knn_before is not None and run.queries is not None:
        figures |= {"knn_before": run.knn_before, "knn_top1": run.knn[-1][1], "knn_queries": run.queries}
    found = diagnose(config, run.step, figures)
    return Health({one.name: one.condition for one in found}, describe_findings(found), run.step)
