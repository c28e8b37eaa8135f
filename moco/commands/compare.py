"""`moco transfer compare`: what runs reached side by side, as the papers' tables show it, with the papers' rows."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moco.errors import BadInputError, counted, one_line
from moco.evaluation.config import RANDOM
from moco.interop.published import TORCHVISION
from moco.runtime.fields import flag
from moco.runtime.records import read_object
from moco.transfer.config import CompareConfig
from moco.transfer.evaluator import RESULT
from moco.transfer.recipes import TASKS

NOTABLE = 0.5
"""Points from which on the papers colour a difference."""
CONDITIONS = ("data", "test_images", "voc_rule", "batch_size")
"""Fields of a run's config: figures of runs that differ in these, or in the number of steps, do not compare."""
ORDER = ("random", "supervised", "moco")
LONGER = 180_000
"""Steps of COCO's 2x schedule."""


def run(config: CompareConfig) -> dict[str, Any]:
    """Print a table for each task; differences are to the supervised weights, or to random ones where those are not.

    Runs of other test images, rules or lengths have a table of their own: their figures do not compare.
    Raises BadInputError where a folder holds no finished transfer run.
    """
    if not config.runs:
        raise BadInputError("no run is given: moco transfer compare RUN, or several of them")
    rows = [read(run) for run in config.runs]
    rows.sort(key=lambda row: ORDER.index(row["kind"]))
    tables = dict[str, list[dict[str, Any]]]()
    console = Console(stderr=config.json)
    for task in dict.fromkeys(row["task"] for row in rows):
        groups = group_alike([row for row in rows if row["task"] == task])
        tables[task] = [row for group in groups for row in with_differences(group)]
        for group in groups:
            console.print(tabulate_task(task, group, with_conditions=len(groups) > 1))
    console.print(
        "In brackets: the difference to supervised weights, or to random ones where there are none; green and red from "
        f"{NOTABLE} points on. Right: the paper's figures, of ResNet-50 at full length; * marks figures from memory.",
        markup=False, highlight=False,
    )  # fmt: skip
    return {"tasks": tables}


def read(run: Path) -> dict[str, Any]:
    """Read what a transfer run reached: kind of weights, figures and their deviation over trials."""
    path = run / "evaluations" / f"{RESULT}.json"
    try:
        content = read_object(path)
        task, weights = content["task"], str(content["weights"])
        figures = {name: float(content[name]) for name in TASKS[task].figures if name in content}
        deviation = {name: float(value) for name, value in dict(content.get("deviation", {})).items()}
        steps, config = int(content["step"]), dict(content.get("config", {}))
        conditions = {name: config[name] for name in CONDITIONS if name in config}
        if TASKS[task].layout != "voc":
            conditions.pop("voc_rule", None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"{run}: no finished run of moco transfer ({one_line(error)})") from error
    return {
        "run": str(run), "task": task, "weights": weights, "kind": kind_of(weights), "steps": steps,
        "figures": figures, "deviation": deviation, "conditions": conditions,
        "paper": paper_row(task, kind_of(weights), steps),
    }  # fmt: skip


def kind_of(weights: str) -> str:
    """Return the row of the papers' tables that weights belong to: `random`, `supervised` or `moco`."""
    if weights == RANDOM:
        return "random"
    return "supervised" if weights.startswith(TORCHVISION) else "moco"


def paper_row(task: str, kind: str, steps: int) -> dict[str, str]:
    """Return the paper's figures of this task and kind of weights; of the longer schedule where the run has its length.

    Of tasks other than COCO's (keypoints, LVIS) the paper has one row, whatever the schedule.
    """
    paper = TASKS[task].paper
    longer = steps >= LONGER and any(name.endswith(" 2x") for name in paper)
    found = paper.get(f"{kind} 2x" if longer else kind, "")
    return dict(zip(TASKS[task].figures, found.split(), strict=False))


def group_alike(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows in groups that were tested on the same images by the same rules after as many steps."""
    groups = dict[str, list[dict[str, Any]]]()
    for row in rows:
        groups.setdefault(json.dumps([row["steps"], row["conditions"]], sort_keys=True), []).append(row)
    return list(groups.values())


def with_differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, each with its differences to the first supervised one, or else to the first random one."""
    by_kind = {row["kind"]: row for row in reversed(rows)}
    reference = by_kind.get("supervised") or by_kind.get("random")
    for row in rows:
        row["difference"] = {
            name: value - reference["figures"][name]
            for name, value in row["figures"].items()
            if reference is not None and row["kind"] != reference["kind"] and name in reference["figures"]
        }
    return rows


def tabulate_task(task: str, rows: list[dict[str, Any]], *, with_conditions: bool = False) -> Table:
    """Tabulate the rows of one task, which share their conditions; `with_conditions` names these in the title."""
    names, title = TASKS[task].figures, f"{task}: {TASKS[task].about}"
    if with_conditions:
        conditions = {name: value for name, value in rows[0]["conditions"].items() if value is not None}
        given = [counted(rows[0]["steps"], "step"), *(f"{flag(name)} {value}" for name, value in conditions.items())]
        title += f"; not comparable with the others: {', '.join(given)}"
    shown = Table(title=Text(one_line(title)), title_justify="left")
    shown.add_column("weights")
    for name in (*names, *(f"{name} (paper)" for name in names)):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        label = row["weights"] if row["kind"] == "moco" else f"{row['kind']}"
        own = [_cell(row, name) for name in names]
        shown.add_row(Text(one_line(label)), *own, *(Text(row["paper"].get(name, "-")) for name in names))
    return shown


def _cell(row: dict[str, Any], name: str) -> Text:
    """A figure, its standard deviation over trials, and its difference in the papers' colours."""
    if name not in row["figures"]:
        return Text("-")
    text = Text(f"{row['figures'][name]:.1f}")
    if name in row["deviation"]:
        text.append(f" ± {row['deviation'][name]:.1f}")
    if name in row["difference"]:
        value = row["difference"][name]
        colour = "green" if value >= NOTABLE else "red" if value <= -NOTABLE else ""
        text.append(f" ({value:+.1f})", style=colour)
    return text
