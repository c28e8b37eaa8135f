"""Runs cells, each in a process of its own, and keeps the figures of each."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moco.bench.alone import MOST_SAID, describe_end
from moco.errors import BadInputError, StoppedError, one_line
from moco.report.markup import number
from moco.report.runs import Run, read_run
from moco.runtime.files import replace_file
from moco.runtime.records import read_object
from moco.runtime.signals import EXIT_CODE, StopRequest
from moco.study.budgets import hand_over
from moco.study.definition import Study
from moco.study.plan import Cell

Result = dict[str, Any]
POLL = 0.2
"""Seconds between two checks whether a process has ended."""
RESULT_KEYS = {"cell", "arm", "seed", "state", "command", "figures", "random", "over_time", "machine"}
"""Keys of a cell's kept result; one without them is of another version, or damaged, and is collected anew."""
FINISHED = ("done", "diverged")
"""States of a cell that is not run again."""


def run_cell(cell: Cell, request: StopRequest) -> str:
    """Train a cell and evaluate it, as far as that is not done; its state: done, diverged or failed.

    What the commands print goes to logs/ of the study. Raises BadInputError where a command refuses what it is given,
    and StoppedError after a signal.
    """
    if cell.earlier is not None:
        hand_over(cell.earlier.run, cell.run)
    logs = cell.run.parent.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{cell.name}.txt"
    missing = [name for name in cell.evaluations if not (cell.run / "evaluations" / f"{name}.json").is_file()]
    wanted = dict(zip(("", *cell.evaluations), cell.commands, strict=True))
    for name in ("", *missing):
        code = _call(wanted[name], log, request)
        if code == EXIT_CODE or request.noted:
            raise StoppedError(f"cell {cell.name}: stopped and saved: run the same command to continue")
        if code == 2:
            raise BadInputError(f"cell {cell.name}: {_last_line(log)}")
        if code:
            return "diverged" if code == 3 else "failed"
    return "done"


def _call(command: tuple[str, ...], log: Path, request: StopRequest) -> int:
    """Run a command of moco to its end, and hand it on a request to stop."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moco", *command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        asked = False
        while process.poll() is None:
            if request.noted and not asked:
                asked = True
                process.terminate()
            time.sleep(POLL)
        if process.returncode < 0:
            file.write(f"moco {command[0]} {describe_end(process.returncode, b'')}\n".encode())
    return process.returncode


def read_last_words(log: Path) -> str:
    """Read how the last command of a cell ended, in its own words; where they lie if there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - MOST_SAID))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return one_line(lines[-1].removeprefix("moco: error: ")) if lines else f"see {log}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if "moco: error:" in line]
    return one_line(lines[-1].removeprefix("moco: error: ")) if lines else f"see {log}"


# --- figures --------------------------------------------------------------------------------------------------------


def collect_result(study: Study, cell: Cell, state: str | None = None) -> Result | None:
    """Return the figures of a cell; None where it has none yet, say because another machine still works on it."""
    if not (cell.run / "config.json").is_file():
        return None
    run = read_run(cell.run)
    if state is None:
        evaluated = all(name in run.evaluations for name in cell.evaluations)
        state = "diverged" if run.state == "diverged" else "done" if run.state == "done" and evaluated else "unfinished"
    figures = figures_of(run)
    numbers = {outcome.name: find_number(figures, outcome.key) for outcome in study.outcomes}
    return {
        "cell": cell.name, "arm": cell.arm.name, "seed": cell.seed, "state": state, "command": cell.line,
        "figures": numbers if state == "done" else {},
        "random": find_number(figures, "knn.baselines.random.top1"),
        "training": {name: value for name, value in figures["run"].items() if number(value) is not None},
        "over_time": {name: run.series(name) for name in study.over_time}, "machine": run.machine,
    }  # fmt: skip


def figures_of(run: Run) -> dict[str, Any]:
    """Return all that is known of a run: `run`, of its training, and each evaluation under its name."""
    result = run.status.get("result")
    training = dict(result) if isinstance(result, dict) else {}
    speeds = [value for _, value in run.series("images_per_second")[1:] if value]
    batch = number(run.config.get("batch_size"))
    if speeds and batch:
        training["images_per_second"] = round(statistics.median(speeds), 2)
        training["milliseconds_per_step"] = round(1000 * batch / statistics.median(speeds), 2)
    return {"run": training, **run.evaluations}


def find_number(figures: Mapping[str, Any], key: str) -> float | None:
    """Find the number under a key of parts joined by dots; None where there is none."""
    value: Any = figures
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return number(value)


def keep_cell_result(out: Path, result: Result) -> None:
    """Write a cell's figures to results/, which are small enough to be kept under version control."""
    replace_file(out / "results" / f"{result['cell']}.json", (json.dumps(result) + "\n").encode())


def read_cell_result(out: Path, cell: Cell) -> Result | None:
    """Read a finished cell's figures; None where there are none."""
    try:
        result = read_object(out / "results" / f"{cell.name}.json")
    except (OSError, BadInputError):
        return None
    whole = result.keys() >= RESULT_KEYS and isinstance(result["figures"], dict)
    return result if whole and result["state"] in FINISHED and result["cell"] == cell.name else None


def read_finished(out: Path, some: Iterable[Cell]) -> list[Result]:
    """Read the figures of those cells that are done or have diverged."""
    return [result for cell in some if (result := read_cell_result(out, cell)) is not None]
