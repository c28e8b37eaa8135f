#!/usr/bin/env python3
"""Draw docs/pretexts.png: kNN accuracy of each pretext and of what it stands beside, from docs/pretexts.csv.

usage: .venv/bin/python scripts/picture_pretexts.py   (needs the extra `docs`)
"""

import csv
from pathlib import Path
from statistics import mean

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
TITLES = {"garments": "frames of garments, 10 classes", "documents": "docstrings, 10 packages"}
TRAINED = "tab:blue"


def main() -> None:
    """One panel for each set of data: a bar is the mean over the seeds, a dot is one seed."""
    found = dict[str, dict[str, list[float]]]()
    with (DOCS / "pretexts.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["data"], {}).setdefault(row["encoder"], []).append(float(row["knn_top1"]))
    widths = [len(encoders) for encoders in found.values()]
    figure, panels = plt.subplots(1, len(found), figsize=(9.5, 3.2), layout="constrained", width_ratios=widths)
    for axes, (data, encoders) in zip(panels, found.items(), strict=True):
        for name, accuracies in encoders.items():
            untrained = name in ("random weights", "raw pixels", "TF-IDF")
            bars = axes.bar(name, mean(accuracies), color="lightgrey" if untrained else TRAINED, width=0.65)
            axes.bar_label(bars, fmt="%.1f", padding=8, fontsize=9)
            if len(accuracies) > 1:
                axes.plot([name] * len(accuracies), accuracies, ".", color="black", markersize=5)
        axes.set(title=TITLES[data], ylabel="kNN accuracy (%)")
        axes.margins(y=0.15)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "pretexts.png", dpi=100)


if __name__ == "__main__":
    main()
