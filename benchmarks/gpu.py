"""Checks and times everything on a GPU.

    python -m benchmarks.gpu [--device cuda] [--small] [--only PART,...]

from the root of the repository. Correctness comes first, then time. Each part prints its figures as lines of JSON as
soon as it has them; a part that fails says why, and the next one goes on. A table with the predictions beside what was
found ends it. The exit code is 1 where a part failed or a figure that must be right is wrong.

The whole takes under nine minutes on an H100, by prediction. `--small --device cpu` tries every part in seconds, with
tiny networks; its times mean nothing. docs/gpu.md says how to run it on a rented machine.
"""

import argparse
import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpuchecks.rows import Row, Setting, write_row
from moco.errors import BadInputError
from moco.runtime.device import resolve_device

PARTS = {
    "machine": ("machine:describe", 20),
    "groups": ("normalization:check_groups", 30),
    "views": ("views:check_views", 60),
    "equal": ("steps:check_equality", 20),
    "repeat": ("steps:check_repetition", 30),
    "step": ("steps:measure_steps", 200),
    "command": ("commands:measure_command", 100),
    "evaluations": ("commands:measure_evaluations", 60),
}
"""A part -> the function that makes its rows, and the seconds that it is predicted to take on an H100."""
COLUMNS = ("part", "measure", "predicted", "found", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for, print their rows and the table, and return the exit code."""
    given = _parse(arguments)
    try:
        resolve_device(given.device)  # before anything computes there: it also makes ready for deterministic products
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[tuple[str, Row]] = []
    with tempfile.TemporaryDirectory(prefix="moco-gpu-") as folder:
        setting = Setting(given.device, given.small, Path(folder))
        for part in given.only:
            rows += _run_part(part, setting)
    print(*_tabulate(rows), sep="\n")
    failed = [f"{part}: {row.measure}" for part, row in rows if row.passed is False]
    print(f"{len(failed)} of {sum(row.passed is not None for _, row in rows)} checks failed: {'; '.join(failed)}"
          if failed else f"all {sum(row.passed is not None for _, row in rows)} checks passed")  # fmt: skip
    return int(bool(failed))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny networks and images: whether it runs, not how fast")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    given = parser.parse_args(arguments)
    given.only = [name.strip() for name in given.only.split(",")]
    for name in given.only:
        if name not in PARTS:
            parser.error(f"--only {name}: expected some of {', '.join(PARTS)}")
    return given


def _run_part(part: str, setting: Setting) -> list[tuple[str, Row]]:
    """Make the rows of a part and print each; a failure is a row too, and the seconds are the last one."""
    where, predicted = PARTS[part]
    module, function = where.split(":")
    rows, began = list[tuple[str, Row]](), time.perf_counter()

    def add(row: Row) -> None:
        rows.append((part, row))
        print(write_row(part, row), flush=True)

    try:
        for row in getattr(importlib.import_module(f"benchmarks.gpuchecks.{module}"), function)(setting):
            add(row)
    except Exception as error:  # noqa: BLE001 - the other parts are still worth their time
        said = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        add(Row("failed", said, passed=False, more={"traceback": traceback.format_exc()[-3000:]}))
    seconds = round(time.perf_counter() - began, 1)
    add(Row("seconds", seconds, "s", "" if setting.small else f"about {predicted}"))
    return rows


def _tabulate(rows: Sequence[tuple[str, Row]]) -> list[str]:
    """Lay the rows out in columns."""
    words = {True: "right", False: "WRONG", None: ""}
    cells = [COLUMNS] + [
        (part, row.measure, row.predicted, f"{row.found} {row.unit}".strip()[:100], words[row.passed])
        for part, row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


if __name__ == "__main__":
    sys.exit(main())
