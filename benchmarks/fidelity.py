"""Trains `moco pretrain` and an independent plain loop on the same images, and compares their accuracies by epoch.

    python -m benchmarks.fidelity DATA OUT.csv [--seeds 3] [--images 2560] [--test 1000] [--epochs 10] [--size 16]

DATA has the splits train and test, with labels. Both loops train on the same images for as many epochs with the same
settings (`benchmarks/plain_loop.py`), but with their own random numbers, views, networks and optimiser steps. The same
plain code classifies the test images by neighbours for both. Each finished run is appended to OUT.csv, and what is
there is not run again. The table gives for each epoch the mean of both loops, their difference and its 95% interval
(Welch); the exit code is 1 where an interval leaves out 0 by more than chance allows (Bonferroni over the epochs).
"""

import argparse
import contextlib
import csv
import io
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from benchmarks import plain_loop
from benchmarks.plain_loop import Settings, classify
from moco.core.encoder import Encoder
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe

LOOPS = ("moco", "plain")
DEFAULTS = {"seeds": 3, "images": 2560, "test": 1000, "epochs": 10, "size": 16, "width": 16}
COLUMNS = ("loop", "seed", "epoch", "top1")
Labelled = tuple[Tensor, Tensor]
"""Images (n, 3, H, W), bytes, and their labels (n,)."""
Found = dict[tuple[str, int], list[float]]
"""The accuracies of a loop with a seed, by epoch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, print the table, and return the exit code."""
    given = _parse(arguments)
    torch.set_num_threads(1)
    settings, splits = Settings(epochs=given.epochs, size=given.size, width=given.width), load(given.data)
    train, test = draw(splits["train"], given.images, given.size), draw(splits["test"], given.test, given.size)
    for seed in range(given.seeds):
        for loop in LOOPS:
            if (loop, seed) not in read(given.out):
                run = run_moco if loop == "moco" else run_plain
                keep(given.out, loop, seed, run(train, test, settings, seed))
    lines, agree = compare(read(given.out))
    print(*lines, sep="\n")
    return int(not agree)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args(arguments)


def draw(images: Images, count: int, size: int) -> Labelled:
    """Draw images of a set, always the same ones, and resize them."""
    rows = np.sort(np.random.default_rng(0).permutation(len(images))[:count])
    assert images.labels is not None
    pixels = torch.stack([images[row] for row in rows.tolist()]).float()
    pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return pixels.round().to(torch.uint8), torch.from_numpy(images.labels[rows].astype(np.int64))


def run_plain(train: Labelled, test: Labelled, settings: Settings, seed: int) -> list[float]:
    """Return the accuracies of the plain loop, before the first epoch and after each."""
    found = list[float]()
    plain_loop.train(
        train[0], settings, seed, lambda _, backbone: found.append(classify(backbone, train, test, settings))
    )
    return found


def run_moco(train: Labelled, test: Labelled, settings: Settings, seed: int) -> list[float]:
    """Return the accuracies of `moco pretrain`, before the first epoch and after each."""
    found = list[float]()

    def look(encoder: Encoder) -> Mapping[str, float]:
        found.append(classify(encoder.backbone, train, test, settings))
        return {}

    with (
        tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings()
    ):  # fmt: skip
        warnings.simplefilter("ignore")  # a queue longer than the images are many is no matter here
        config = recipe(
            "cifar10", data="fidelity", out=Path(folder) / "run", seed=seed, arch=f"resnet18-w{settings.width}",
            image_size=settings.size, epochs=settings.epochs, batch_size=settings.batch, bn_groups=settings.groups,
            queue_size=settings.queue, key_momentum=settings.momentum, temperature=settings.temperature,
            lr=settings.rate, weight_decay=settings.decay, precision="fp32", device="cpu", threads=1, workers=0,
            checkpoint_every=0, knn_every=len(train[0]) // settings.batch, json=True,
        )  # fmt: skip
        pretrain(config, ArrayImages(train[0]), look)
    return found


def keep(path: Path, loop: str, seed: int, top1: Sequence[float]) -> None:
    """Append the accuracies of a run."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS] if new else [])
        writer.writerows((loop, seed, epoch, f"{value:.2f}") for epoch, value in enumerate(top1))


def read(path: Path) -> Found:
    """Read the accuracies that are there."""
    found: Found = {}
    with path.open(encoding="utf-8") if path.exists() else io.StringIO() as file:
        for row in csv.DictReader(file):
            found.setdefault((row["loop"], int(row["seed"])), []).append(float(row["top1"]))
    return found


def compare(found: Found) -> tuple[list[str], bool]:
    """Lay out both loops' means by epoch, and tell whether no epoch shows a difference."""
    lines, agree = ["| epoch | moco | plain loop | difference | 95% interval |", "|---|---|---|---|---|"], True
    runs = {loop: np.array([values for (name, _), values in found.items() if name == loop]) for loop in LOOPS}
    epochs = runs["moco"].shape[1]
    for epoch in range(epochs):
        ours, theirs = (runs[loop][:, epoch] for loop in LOOPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # seeds that agree to the last digit
            test = stats.ttest_ind(ours, theirs, equal_var=False)
        low, high = test.confidence_interval(0.95)
        agree = agree and not test.pvalue < 0.05 / epochs
        cells = (f"{one.mean():.1f} ± {one.std(ddof=1):.1f}" for one in (ours, theirs))
        lines.append(
            f"| {epoch} | {' | '.join(cells)} | {ours.mean() - theirs.mean():+.1f} | {low:+.1f} to {high:+.1f} |"
        )
    return lines, agree


if __name__ == "__main__":
    sys.exit(main())
