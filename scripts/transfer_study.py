"""Does pre-training on a set's own unlabelled images help its task? Random weights against pre-trained, three trials.

    python scripts/transfer_study.py bccd --data FOLDER --out runs/study-bccd

pre-trains a small ResNet-18 on the training images of the set, without their annotations, fine-tunes it and random
weights of the same net by the same schedule, and writes OUT/table.md. On one core bccd takes some 25 minutes, camvid 40
and nuclei 70; started again, it goes on, also with more --trials. `--share 0.02` shortens all of it, to try it out.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from PIL import Image, ImageOps
from scipy.stats import ttest_ind

from moco.commands.pretrain import run as pretrain
from moco.commands.transfer import run as transfer
from moco.errors import BadInputError, one_line
from moco.pretraining.recipes import recipe
from moco.runtime.machine import machine
from moco.transfer.examples import Examples, open_examples
from moco.transfer.recipes import TASKS, transfer_config

PRETRAINING: dict[str, Any] = {
    "arch": "resnet18-w32", "stem": "imagenet", "image_size": 96, "dictionary": "in-batch", "batch_size": 64,
    "bn_groups": 4, "base_lr": 0.12, "max_steps": 500, "knn_every": 0, "head": "mlp", "temperature": 0.1,
}  # fmt: skip
"""Keys of the batch, as in the recipe quick: in so few steps they teach more than a queue's (docs/results.md)."""
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "bccd": ("voc-dc5", {"train_sizes": (108, 132), "test_size": 120, "longest_side": 200, "max_steps": 250}),
    "nuclei": ("coco-fpn", {"train_sizes": (224, 288), "test_size": 256, "longest_side": 480, "max_steps": 250,
                            "detections": 300}),  # of 14 pixels: at half the size hardly any is found
    "camvid": ("voc-semantic", {"crop_size": 128, "max_steps": 400, "lr": 0.02, "batch_size": 8}),
}  # fmt: skip
FINE_TUNING: dict[str, Any] = {
    "batch_size": 4, "lr": 0.02, "head_channels": 64, "regions": 64, "precise_bn": 20, "log_every": 50,
}  # fmt: skip
"""Of both kinds of weights; what a set gives goes before."""


SHORTER_SIDE = 144
"""Pixels of the images that are pre-trained on; views are of 96."""


@dataclass(frozen=True)
class Options:
    """What to do."""

    set: tyro.conf.Positional[Literal["bccd", "nuclei", "camvid"]]
    """Which set, for its task and settings."""
    data: Path
    """Its folder."""
    out: Path
    """Where runs and table go."""
    trials: int = 3
    """Of each kind of weights."""
    share: float = 1.0
    """Of the steps of everything."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""


def main() -> int:
    """Run the study and print its table."""
    options = tyro.cli(Options)
    task, settings = SETS[options.set]
    options.out.mkdir(parents=True, exist_ok=True)
    train = open_examples(TASKS[task].layout, options.data, "train")
    unlabelled = options.out / "training-images"
    shrink(train, unlabelled)
    batch = min(PRETRAINING["batch_size"], len(train))
    own = {**PRETRAINING, "max_steps": steps(PRETRAINING["max_steps"], options), "batch_size": batch}
    encoder = options.out / "encoder"
    print(f"pre-training on {len(train)} images of {options.set}, without their annotations", flush=True)
    if "exit_code" in pretrain(recipe("v2", data=str(unlabelled), out=encoder, threads=options.threads, **own)):
        return 75
    results = {}
    for name, weights in (("random weights", "random"), ("pre-trained here", str(encoder))):
        values = {**FINE_TUNING, **settings}
        values["max_steps"] = steps(values["max_steps"], options)
        out = options.out / name.split()[0]
        results[name] = transfer(
            transfer_config(
                task, weights=weights, like=encoder if weights == "random" else None, data=str(options.data), out=out,
                trials=options.trials, threads=options.threads, **values,
            )
        )  # fmt: skip
        if results[name].get("exit_code"):
            return 75
    text = table(options, task, results)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def shrink(examples: Examples, folder: Path) -> None:
    """Write small copies of the images, once: large photographs would be decoded anew for every view of 96 pixels."""
    folder.mkdir(exist_ok=True)
    for i in range(len(examples)):
        path = folder / f"{i:06d}.png"
        if not path.is_file():
            with Image.open(examples.name(i)) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
            factor = min(1.0, SHORTER_SIDE / min(image.size))
            image.resize((round(image.width * factor), round(image.height * factor))).save(path)


def steps(full: int, options: Options) -> int:
    """So many steps of the full number."""
    return max(2, round(full * options.share))


def table(options: Options, task: str, results: dict[str, dict[str, Any]]) -> str:
    """Mean and standard deviation of each figure, and the difference with its 95% interval (Welch's t)."""
    names = [name for name in TASKS[task].figures if all(name in result for result in results.values())]
    lines = [
        f"| {options.set}: {task}, {options.trials} trials | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]

    def spread(result: dict[str, Any], name: str) -> float:
        return float(result.get("deviation", {}).get(name, 0.0))

    for label, result in results.items():
        lines.append(f"| {label} | " + " | ".join(f"{result[n]:.2f} ± {spread(result, n):.2f}" for n in names) + " |")
    without, with_it = results.values()
    differences = []
    for name in names:
        gain = f"{with_it[name] - without[name]:+.2f}"
        if options.trials > 1:
            trials = [result["trials"][name] for result in (with_it, without)]
            low, high = ttest_ind(*trials, equal_var=False).confidence_interval(0.95)
            gain += f" ({low:+.2f} to {high:+.2f})"
        differences.append(gain)
    lines.append(f"| difference (95% interval) | {' | '.join(differences)} |")
    minutes = sum(float(result.get("seconds", 0.0)) for result in results.values()) / 60
    lines.append(f"\nFine-tuning took {minutes:.1f} minutes in all. {machine()}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BadInputError as wrong:
        print(one_line(str(wrong)), file=sys.stderr)
        sys.exit(2)
