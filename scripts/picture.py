#!/usr/bin/env python3
"""Draw docs/quick.png: kNN accuracy of runs over their training time, and what the first run finds near some images.

usage: .venv/bin/python scripts/picture.py DATA RUN...   (needs the extra `docs`)
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from moco import Encoding, encode, load, load_weights
from moco.data.derived import Subset

QUERIES, NEIGHBOURS, BANK = 10, 9, 50000


def main(data: str, runs: list[Path]) -> None:
    """Two panels, side by side."""
    figure = plt.figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.05])
    draw_curves(left, runs)
    draw_neighbours(right, data, runs[0])
    figure.savefig("docs/quick.png", dpi=130)


def draw_curves(figure: mpl.figure.SubFigure, runs: list[Path]) -> None:
    """The monitor's figures of every run, from its folder."""
    axes = figure.subplots()
    for run in runs:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        points = [(line["time"] / 60, line["knn_top1"]) for line in lines if "knn_top1" in line]
        seed = json.loads((run / "config.json").read_text())["seed"]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"seed {seed}")
    first = next(line for line in lines if "knn_pixels" in line)
    for name, accuracy in (("random weights", first["knn_top1"]), ("raw pixels", first["knn_pixels"])):
        axes.axhline(accuracy, color="grey", linestyle="--", linewidth=1)
        axes.annotate(name, (0.98, accuracy), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(xlabel="minutes on 2 CPU cores", ylabel="kNN accuracy (%)", title="moco pretrain quick, CIFAR-10")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def draw_neighbours(figure: mpl.figure.SubFigure, data: str, run: Path) -> None:
    """The first test image of each class, and the training images whose features are most similar."""
    weights, splits = load_weights(str(run)), load(data)
    how = Encoding(weights.encoder.plan.image_size, weights.mean, weights.std)
    bank = Subset(splits["train"], np.arange(0, len(splits["train"]), max(1, len(splits["train"]) // BANK)))
    labels = splits["test"].labels
    classes = np.unique(labels)[:QUERIES]
    queries = Subset(splits["test"], np.array([int(np.argmax(labels == one)) for one in classes]))
    nearest = (encode(weights.encoder, queries, how) @ encode(weights.encoder, bank, how).T).topk(NEIGHBOURS).indices
    grid = figure.subplots(QUERIES, NEIGHBOURS + 1)
    for row in range(QUERIES):
        shown = [queries[row], *(bank[int(i)] for i in nearest[row])]
        for axes, image in zip(grid[row], shown, strict=True):
            axes.imshow(image.permute(1, 2, 0))
            axes.set_axis_off()
    grid[0, 0].set_title("image", fontsize=9)
    figure.suptitle("most similar training images, without labels", fontsize=11)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], [Path(run) for run in sys.argv[2:]])
