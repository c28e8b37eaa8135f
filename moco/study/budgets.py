"""Several budgets in one study: an arm trains on from the run of the budget before, at a rate that knows no length."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.runtime.fields import flag
from moco.runtime.folder import read_status
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Study, arm_values
from moco.study.rows import Row
from moco.study.statistics import Judged

CONSTANT: dict[str, Any] = {
    "schedule": "step", "lr_decay": 1.0, "key_momentum_schedule": "constant", "end_after": None, "keep": "last",
}  # fmt: skip
"""Values with which the state after n steps is the same whatever the length of the run."""


@dataclass(frozen=True)
class AtBudget:
    """What the cells of one budget show."""

    images: int
    rows: Sequence[Row]
    judged: Sequence[Judged]


def require_budgets(study: Study, config: StudyConfig) -> None:
    """Raise BadInputError where --budgets is given beside what contradicts it."""
    if not config.budgets:
        return
    for name in ("images", "minutes", "halving", "skip_settled"):
        if getattr(config, name):
            raise BadInputError(f"--budgets does not go together with {flag(name)}: leave one out")
    if study.steps is not None:
        raise BadInputError(f"--budgets: the cells of {study.name} make {study.steps} steps each: leave it out")


def describe_length_flag(study: Study, arm: Arm, recipe: str) -> str | None:
    """Name the flag of an arm's own by which its state depends on the length of the run; None if there is none."""
    own = {name.replace("-", "_") for name in arm.values}
    values = arm_values(study, arm, recipe)
    found = next((name for name in CONSTANT if name in own and values[name] != CONSTANT[name]), None)
    return None if found is None else f"{flag(found)} {values[found]}"


def hand_over(earlier: Path, run: Path) -> None:
    """Move the state of a finished run to the run that goes on from it; without one that trains from the beginning.

    A run folder with checkpoints and without config.json begins at the newest of them.
    """
    state = earlier / "checkpoints"
    if read_status(earlier).get("state") != "done" or not state.is_dir() or (run / "checkpoints").exists():
        return
    run.mkdir(parents=True, exist_ok=True)
    for path in (earlier / "metrics.jsonl", *earlier.glob("data*.safetensors")):
        shutil.copy(path, run)
    state.rename(run / "checkpoints")


def hand_over_line(earlier: Path, run: Path) -> str:
    """Write `hand_over` as shell, behind the command that finishes the earlier run."""
    a, b = shlex.quote(str(earlier)), shlex.quote(str(run))
    move = f"mkdir -p {b} && cp {a}/metrics.jsonl {a}/data*.safetensors {b} && mv {a}/checkpoints {b}"
    return f"if [ -d {a}/checkpoints ] && [ ! -e {b}/checkpoints ]; then {move}; fi"


def name_budgets(budgets: Sequence[int]) -> str:
    """Write budgets as words."""
    return " and ".join(filter(None, (", ".join(f"{n:,}" for n in budgets[:-1]), f"{budgets[-1]:,}")))


def follow_claims(looks: Sequence[AtBudget]) -> list[tuple[str, list[tuple[int, Judged]]]]:
    """List the verdicts on each claim over the budgets at which it could be judged."""
    found = dict[tuple[str, str, str], list[tuple[int, Judged]]]()
    for look in looks:
        for one in look.judged:
            key = (one.claim.text, one.claim.better, one.claim.worse)
            found.setdefault(key, []).append((look.images, one))
    return [(text, judged) for (text, _, _), judged in found.items()]


def describe_crossing(judged: Sequence[tuple[int, Judged]]) -> str:
    """Name the budgets between which the verdict on a claim changes, or the sign of its difference."""
    said = []
    for (n, before), (m, after) in pairwise(judged):
        if before.verdict != after.verdict:
            said.append(f"{before.verdict} at {n:,} images, {after.verdict} at {m:,}")
        elif before.difference * after.difference < 0:
            said.append(f"{after.verdict} at {n:,} and {m:,} images, but the difference changes its sign")
    return "; ".join(said)
