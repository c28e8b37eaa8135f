"""`moco bench`: each measurement in a fresh process, one after the other.

Imports no torch: a process that it starts takes over its peak memory, so its own must be small.
"""

import tempfile
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console

from moco.bench.alone import run_alone
from moco.bench.cases import DICTIONARIES, TRAININGS, VIEWS
from moco.bench.config import BenchConfig
from moco.bench.report import add_ratios, caution, tabulate_figures
from moco.bench.verdict import find_bottleneck
from moco.errors import BadInputError
from moco.runtime.fields import check
from moco.runtime.machine import machine

MEASUREMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "peak": ("moco.bench.peak:measure_peak", ("fp32", "bf16")),
    "step": ("moco.bench.loop:measure_step", tuple(TRAININGS)),
    "end-to-end": ("moco.bench.loop:measure_end_to_end", tuple(TRAININGS)),
    "views": ("moco.bench.views:measure_views", tuple(VIEWS)),
    "dictionary": ("moco.bench.dictionary:measure_dictionary", tuple(DICTIONARIES)),
}
"""A name of `--only` -> the function that measures it, and its cases."""
GPU_PEAKS = ("fp16", "tf32")
"""Further cases of `peak` on an NVIDIA GPU; one without TF32 computes them in fp32."""


def run(config: BenchConfig) -> dict[str, Any]:
    """Measure what was asked for; print a table and a verdict, and return every figure by measurement and case."""
    check(config)
    names = select_measurements(config.only)
    console = Console(stderr=config.json)
    found: dict[str, Any] = {"machine": machine(), **{name: {} for name in names}}
    with tempfile.TemporaryDirectory(prefix="moco-bench-") as folder:
        if {"step", "end-to-end", "views"} & set(names):
            run_alone("moco.bench.photographs:write_photographs", config, Path(folder), "")
        for name, case in _in_turn(names, found["machine"]):
            console.print(f"measuring {name} {case}", markup=False, highlight=False)
            row = run_alone(MEASUREMENTS[name][0], config, Path(folder), case)
            found["machine"] |= row.pop("gpu", {})
            found[name][case] = row
    add_ratios(found)
    found["verdict"] = find_bottleneck(found)
    console.print(tabulate_figures(found))
    found["caution"] = caution(found)
    for line in filter(None, (found["caution"], found["verdict"])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found


def select_measurements(only: str | None) -> list[str]:
    """Parse the names of `--only`, in the order of measurement. Raises BadInputError naming an unknown one."""
    if only is None:
        return list(MEASUREMENTS)
    given = [name.strip() for name in only.split(",") if name.strip()]
    for name in given:
        if name not in MEASUREMENTS:
            similar = get_close_matches(name, MEASUREMENTS, n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"expected some of {', '.join(MEASUREMENTS)}"
            raise BadInputError(f"--only {only}: {name} is not measured, {hint}")
    if not given:
        raise BadInputError(f"--only {only!r}: expected some of {', '.join(MEASUREMENTS)}")
    return [name for name in MEASUREMENTS if name in given]


def _in_turn(names: list[str], about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every measurement and case; a step and the loop around it one after the other, since they are compared.

    The first measurement tells `about` of a GPU, if it was made on one.
    """
    loops = [name for name in ("step", "end-to-end") if name in names]
    for name in names:
        if name not in loops:
            yield from ((name, case) for case in MEASUREMENTS[name][1])
            if name == "peak" and "gpu" in about:
                yield from ((name, case) for case in GPU_PEAKS)
        elif name == loops[0]:
            yield from ((loop, case) for case in TRAININGS for loop in loops)
