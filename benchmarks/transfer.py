"""One real training iteration and one evaluation of every transfer task at the papers' full settings.

    python -m benchmarks.transfer [--batch-size 1] [--threads 2] [--only voc-c4]

from the root of the repository. ResNet-50 of random weights, generated images of each benchmark's usual size and number
of classes in its layout; each task in a process of its own, so that its peak memory is its own. The iteration is the
first one, with the loading of its images; the evaluation is of one image, with the scores.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from moco.core.encoder import EncoderPlan
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.interop.checkpoints import random_weights
from moco.runtime.device import peak_memory, set_threads
from moco.runtime.machine import machine
from moco.transfer.batches import TrainingBatches, move_batch
from moco.transfer.evaluation import evaluate_model
from moco.transfer.examples import open_examples
from moco.transfer.models import build_model, build_transfer_optimizer
from moco.transfer.recipes import TASKS, transfer_config
from tests.transfer.scenes import write

SIZES = {"voc": (500, 375), "coco": (640, 480), "lvis": (640, 480), "cityscapes": (2048, 1024)}
"""Width and height of a benchmark's images."""
CLASSES = {"voc": 20, "coco": 80, "coco-keypoints": 1, "lvis": 1230}
"""How many classes a benchmark has, by its layout; Cityscapes' and label maps' are those of the layout."""
IMAGES = 4


@dataclass(frozen=True)
class Options:
    """What to measure."""

    only: str | None = None
    """One task alone, in this process; its figures as JSON."""
    batch_size: int = 1
    """Images of the training iteration."""
    threads: int = 2
    """Threads inside an operation."""


def main() -> None:
    """Print a table, a row for each task."""
    options = tyro.cli(Options)
    if options.only is not None:
        print(json.dumps(measure(options.only, options)))
        return
    table = Table("task", "training image", "iteration (s)", "evaluation (s)", "peak memory (GiB)", "loss")
    for task in TASKS:
        command = [sys.executable, "-m", "benchmarks.transfer", "--only", task]
        command += ["--batch-size", str(options.batch_size), "--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            table.add_row(task, (done.stderr.strip().splitlines() or ["failed"])[-1])
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        figures = (f"{row['iteration']:.1f}", f"{row['evaluation']:.1f}", f"{row['memory']:.2f}", f"{row['loss']:.2f}")
        table.add_row(task, row["image"], *figures)
        print(task, row, flush=True)
    Console().print(table)
    print(machine())


def measure(task: str, options: Options) -> dict[str, Any]:
    """Seconds of an iteration and of an evaluation, and the process's peak memory in GiB."""
    set_threads(options.threads)
    torch.manual_seed(0)
    layout = TASKS[task].layout
    with tempfile.TemporaryDirectory() as folder:
        data = write(layout, Path(folder) / "data", IMAGES, SIZES[layout.split("-")[0]])
        add_classes(data, CLASSES.get(layout, 0))
        config = transfer_config(
            task, weights="random", data=str(data), out=Path(folder) / "run", device="cpu", test_images=1, workers=0,
            batch_size=options.batch_size,
        )  # fmt: skip
        train, test = (open_examples(layout, data, split) for split in ("train", "test"))
        weights = random_weights(EncoderPlan("resnet50"), 0, IMAGENET_MEAN, IMAGENET_STD)
        model, _ = build_model(config, weights, train)
        optimizer = build_transfer_optimizer(config, model)
        started = time.monotonic()
        images, targets = move_batch(TrainingBatches(train, config).at(0), "cpu")
        losses = model.train()(images, targets)
        loss = sum(losses.values())
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.0  # as good as the first step of a warm-up, and no weight becomes NaN
        optimizer.step()
        trained = time.monotonic()
        evaluate_model(model, test, dataclasses.replace(config, score_threshold=min(config.score_threshold, 0.05)))
        return {
            "iteration": trained - started, "evaluation": time.monotonic() - trained,
            "memory": peak_memory("cpu") / 2**30, "loss": float(loss), "image": "x".join(map(str, images[0].shape[1:])),
        }  # fmt: skip


def add_classes(data: Path, count: int) -> None:
    """Name as many classes in COCO's kind of files as the benchmark has; without objects, but with their outputs."""
    for path in (data / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        categories = content["categories"]
        for number in range(len(categories) + 1, count + 1):
            categories.append({**categories[0], "id": number, "name": f"class {number}", "synset": f"class.{number}"})
        path.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
