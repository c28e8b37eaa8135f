"""Which measure without labels orders encoders as kNN accuracy does: many short runs, each measured at several steps.

    python -m benchmarks.labelfree cats-dogs sign-digits --published timm:tf_efficientnet_lite0 --out label-free.csv

from the root of the repository. Each set is labelled images; only its training split is used, and labels only for the
accuracy: of at most 1,000 images, each classified by its 20 nearest others. The other measures are of 384 of them, with
views of the recipes v2 and taught (`mild`). A row is one encoder: a run after some of its steps. The table on standard
output has Spearman's rank correlation with the accuracy for each set, then the mean over the sets.
"""

import csv
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from scipy.stats import spearmanr

from moco.commands.pretrain import build_teacher, open_splits
from moco.core.encoder import Encoder
from moco.data.augment import AUGMENTATIONS
from moco.data.derived import Subset, make_readable, take_evenly
from moco.data.images import ArrayImages, Images
from moco.data.splits import hold_out_tenth
from moco.evaluation.alignment import draw_pairs
from moco.evaluation.comparison import judge_weights
from moco.evaluation.features import Encoding, encode
from moco.evaluation.labelfree import measure_features
from moco.evaluation.preparation import prepare_image
from moco.interop.checkpoints import Weights
from moco.pretraining.initial import with_weights
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe
from moco.runtime.device import resolve_precision
from moco.runtime.fields import require

SIDE, MOST = 96, 2000
"""Every image is brought to this side once; so many of a set take part."""
JUDGED, MEASURED = 1000, 384
LESS_IS_BETTER = ("alignment", "uniformity")

STEPS = 60
SHORT: dict[str, Any] = {"image_size": 32, "batch_size": 64, "max_steps": STEPS, "knn_every": STEPS // 3, "workers": 0}
SCRATCH: dict[str, Any] = {**SHORT, "bn_groups": 2}
NARROW: dict[str, Any] = {"arch": "resnet18-w16", "stem": "cifar"}
TAUGHT: dict[str, Any] = {**SHORT, **NARROW, "teacher_size": 64, "warmup_epochs": 0.5}
CONTINUED: dict[str, Any] = {**SHORT, "image_size": 64, "max_steps": 16, "knn_every": 8, "queue_size": 256}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch": ("quick", SCRATCH),
    "scratch, lr / 10": ("quick", {**SCRATCH, "base_lr": 0.012}),
    "scratch, lr x 20": ("quick", {**SCRATCH, "base_lr": 2.4}),
    "scratch, queue": ("v2", {**SCRATCH, **NARROW, "queue_size": 256, "key_momentum": 0.9}),
    "taught": ("taught", TAUGHT),
    "taught, lr x 20": ("taught", {**TAUGHT, "base_lr": 4.0}),
    "continued": ("continued", CONTINUED),
    "continued, lr x 50": ("continued", {**CONTINUED, "base_lr": 0.2}),
}  # fmt: skip
"""Name -> recipe, and what differs from it."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Labelled images, as for moco pretrain."""
    published: str
    """Published weights, which are trained on and teach."""
    out: Path
    """CSV file; rows that it has already are not made again."""
    correlate: bool = False
    """Only read the file."""


@dataclass
class Observer:
    """A monitor that measures the encoder at each look."""

    bank: Images
    queries: Images
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    seen: list[dict[str, float]] = field(default_factory=list)
    views: dict[str, tuple[Images, Images]] = field(default_factory=dict)

    def __call__(self, encoder: Encoder) -> Mapping[str, float]:
        """Measure it with and without labels."""
        precision = resolve_precision("auto", "cpu")
        weights, how = Weights(encoder, tuple(self.mean), tuple(self.std)), Encoding(self.size, self.mean, self.std)
        how = dataclasses.replace(how, precision=precision)
        right = judge_weights(weights, self.size, self.bank, self.queries, precision)
        images = take_evenly(self.bank, MEASURED)
        z, figures = encode(encoder, images, how), {"knn": 100 * float(right.float().mean())}
        for views in ("v2", "mild"):
            if views not in self.views:
                self.views[views] = draw_pairs(images, AUGMENTATIONS[views], self.size)
            z_1, z_2 = (encode(encoder, one, how) for one in self.views[views])
            figures |= {f"{name}, {views}": value for name, value in measure_features(z, z_1, z_2).items()}
        self.seen.append(figures)
        return figures


def main() -> None:
    """Make the rows that are missing, then say how each measure orders them."""
    options = tyro.cli(Options)
    sets = {data: open_parts(data) for data in (() if options.correlate else options.sets)}
    for name, (kind, values) in RUNS.items():
        for data, parts in sets.items():
            if (Path(data).name, name) not in {(row["set"], row["run"]) for row in read(options.out)}:
                make(options, data, parts, name, kind, values)
    correlate(read(options.out))


def open_parts(data: str) -> tuple[Images, Images, Images]:
    """Open the training images of a set: all that take part, and the bank and the queries of the accuracy."""
    images = open_splits(data)["train"]
    images = hold_small(make_readable(take_evenly(images, min(MOST, len(images)))))
    rest, held_out = hold_out_tenth(len(images))
    bank, queries = (
        take_evenly(Subset(images, rows), min(most, len(rows)))
        for rows, most in ((rest, JUDGED * 9 // 10), (held_out, JUDGED // 10))
    )
    return images, bank, queries


def hold_small(images: Images) -> Images:
    """Hold images at 96 x 96 pixels, so that photographs are decoded once."""
    squares = torch.stack([prepare_image(images[i], SIDE) for i in range(len(images))])
    return ArrayImages((squares * 255).round().to(torch.uint8), images.labels, images.classes)


def make(
    options: Options, data: str, parts: tuple[Images, Images, Images], name: str, kind: str, values: dict[str, Any]
) -> None:
    """Train, and add a row for each look."""
    begin = {"taught": {"teacher": options.published}, "continued": {"init_weights": options.published}}.get(kind, {})
    with tempfile.TemporaryDirectory() as run:
        more = {"data": data, "out": Path(run), "device": "cpu", "threads": 1, "checkpoint_every": 0, "keep": "last"}
        config = with_weights(recipe(kind, **{**values, **begin, **more}))
        teacher = build_teacher(config, parts[0])
        if teacher is not None:
            config = dataclasses.replace(config, feature_dim=teacher.width)
        observer = Observer(*parts[1:], require(config.image_size), require(config.mean), require(config.std))
        pretrain(config, parts[0], observer, teacher=teacher)
    every, steps = require(config.knn_every), require(config.max_steps)
    at = [*range(0, steps, every), steps]
    rows = [
        {"set": Path(data).name, "run": name, "step": step, **{key: round(value, 4) for key, value in seen.items()}}
        for step, seen in zip(at, observer.seen, strict=True)
    ]
    write_header = not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if write_header:
            writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def correlate(rows: Sequence[Mapping[str, str]]) -> None:
    """Print Spearman's correlation of each measure with the accuracy, within each set and in the mean."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    print(f"| measure, views | {' | '.join(sets)} | mean |\n|{'---|' * (len(sets) + 2)}")
    for name in [name for name in rows[0] if name not in ("set", "run", "step", "knn")]:
        sign = -1 if name.partition(",")[0] in LESS_IS_BETTER else 1
        found = []
        for own in sets:
            values, accuracies = ([float(row[key]) for row in rows if row["set"] == own] for key in (name, "knn"))
            found.append(sign * float(spearmanr(values, accuracies)[0]))
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in found)} | {sum(found) / len(found):.2f} |")
    print(f"{len(rows)} encoders of {len({(row['set'], row['run']) for row in rows})} runs")


if __name__ == "__main__":
    main()
