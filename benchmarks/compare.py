"""Ours and the peers' in turn, in one run, on the same images and the same cores; the ratios.

    python -m benchmarks.compare [--rounds 3] [--seconds 10] [--data cifar10] [--only ROW,ROW] [--json FILE]

from the root of the repository, with the extra `bench` installed. Every measurement is a fresh process; the contestants
of a row follow one another, and every round goes through all rows.
"""

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from moco.bench.alone import run_alone
from moco.bench.cases import PATCHES
from moco.bench.config import BenchConfig
from moco.runtime.machine import machine

OURS = "moco"


@dataclass(frozen=True)
class Row:
    """What is compared: the contestants' functions, and the ratios to the first peer that the project asks for."""

    case: str
    figure: str
    contestants: dict[str, str]
    judged_by: str
    must: float
    aim: float


ROWS = {
    "resnet18-3x3-stem-32": Row(
        "resnet18-3x3-stem-32", "images_per_second",
        {OURS: "moco.bench.loop:measure_end_to_end", "torchvision": "benchmarks.peer_torchvision:end_to_end"},
        "torchvision", 2.8, 3.2,
    ),
    "resnet18-usual-stem-32": Row(
        "resnet18-usual-stem-32", "images_per_second",
        {OURS: "moco.bench.loop:measure_end_to_end", "torchvision": "benchmarks.peer_torchvision:end_to_end",
         "lightly": "benchmarks.peer_lightly:end_to_end"},
        "lightly", 2.3, 3.0,
    ),
    "resnet50-224-step": Row(
        "resnet50-224", "images_per_second",
        {OURS: "moco.bench.loop:measure_step", "torchvision": "benchmarks.peer_torchvision:step"},
        "torchvision", 2.5, 2.8,
    ),
    "views-v2-224-jpeg": Row(
        "v2-224-jpeg", "views_per_second_per_core",
        {OURS: "moco.bench.views:measure_views", "torchvision": "benchmarks.peer_torchvision:views",
         "lightly": "benchmarks.peer_lightly:views"},
        "torchvision", 5.0, 7.0,
    ),
    "views-cifar-32-memory": Row(
        "cifar-32-memory", "views_per_second_per_core",
        {OURS: "moco.bench.views:measure_views", "torchvision": "benchmarks.peer_torchvision:views"},
        "torchvision", 8.0, 15.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Run ours and the peers in turn, and print the ratios."""

    rounds: int = 3
    """How often everything is measured."""
    seconds: float = 10.0
    """How long each figure is measured, at least."""
    only: str | None = None
    """Rows, separated by commas; by default all."""
    data: str | None = None
    """Images of 32 pixels (cifar10, or a folder); by default patches of scikit-learn's sample photographs."""
    images: int = 8192
    """How many of them."""
    json: Path | None = None
    """Where to write the figures of every round."""


def prepare_patches(comparison: Comparison, folder: Path) -> None:
    """Replace the patches in the folder by images of the given data."""
    from moco.data.catalog import load
    from moco.data.derived import Subset
    from moco.data.images import hold

    assert comparison.data is not None
    images = load(comparison.data)["train"]
    rows = np.linspace(0, len(images) - 1, min(comparison.images, len(images))).astype(np.int64)
    some = hold(Subset(images, rows))
    np.save(folder / PATCHES, np.stack([some[i].permute(1, 2, 0).numpy() for i in range(len(some))]))


def summary(row: Row, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each contestant's figure, and of the rounds' ratios of ours to theirs, with their range."""
    figures = {name: [found[name][row.figure] for found in rounds] for name in row.contestants}
    ratios = {
        name: [ours / theirs for ours, theirs in zip(figures[OURS], figures[name], strict=True)]
        for name in row.contestants
        if name != OURS
    }
    return {
        "figure": row.figure,
        "medians": {name: statistics.median(values) for name, values in figures.items()},
        "ratios": {
            name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
            for name, values in ratios.items()
        },
        "must": row.must,
        "aim": row.aim,
        "judged_by": row.judged_by,
        "rounds": rounds,
    }


def table(report: dict[str, Any]) -> Table:
    """Every row's medians and ratios."""
    machine = report["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, {machine['date']}"
    lines = Table(title=f"{where}, load {machine['load']}")
    for heading in ("row", "contestant", "median", "moco is", "lowest to highest", "must / aim"):
        lines.add_column(heading)
    for name, row in report["rows"].items():
        for contestant, median in row["medians"].items():
            ratio = row["ratios"].get(contestant)
            judged = f"{row['must']} / {row['aim']}" if contestant == row["judged_by"] else ""
            spread = f"{ratio['lowest']:.2f} to {ratio['highest']:.2f}" if ratio else ""
            lines.add_row(name, contestant, f"{median:.1f}", f"{ratio['median']:.2f}x" if ratio else "", spread, judged)
    return lines


def main() -> None:
    """Compare."""
    comparison = tyro.cli(Comparison)
    names = comparison.only.split(",") if comparison.only else list(ROWS)
    config = BenchConfig(seconds=comparison.seconds)
    rounds: dict[str, list[dict[str, dict[str, Any]]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="moco-compare-") as path:
        folder = Path(path)
        run_alone("moco.bench.photographs:write_photographs", config, folder, "")
        if comparison.data is not None:
            prepare_patches(comparison, folder)
        for number in range(comparison.rounds):
            for name in names:
                found = {}
                for contestant, target in ROWS[name].contestants.items():
                    found[contestant] = run_alone(target, config, folder, ROWS[name].case)
                    print(f"round {number + 1}: {name} {contestant} {found[contestant]}", flush=True)
                rounds[name].append(found)
    report = {
        "machine": machine(),
        "settings": asdict(comparison) | {"json": str(comparison.json)},
        "rows": {name: summary(ROWS[name], rounds[name]) for name in names},
    }
    Console().print(table(report))
    if comparison.json is not None:
        comparison.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
