"""Few labels: a linear classifier and the fine-tuned network, over several draws of the labelled images."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from moco.data.derived import Subset
from moco.data.images import Images, Labels, hold
from moco.errors import BadInputError, counted
from moco.evaluation.config import LowshotConfig
from moco.evaluation.divided import encode_divided, list_grids
from moco.evaluation.finetune import Finetuning, finetune_and_score
from moco.evaluation.label_share import LabelShare, read_label_share
from moco.evaluation.linear import encode_to_learn
from moco.evaluation.penalty import Candidate, divide, fit_best
from moco.evaluation.scores import Scores, compare_draws, describe_lead, score_logits, spread
from moco.evaluation.session import Labelled, Subject, labels_of
from moco.runtime.randomness import Stream, permute
from moco.shapes import Features

WAYS = {"linear": "linear", "finetune": "fine-tuned"}
"""The figures of a result, with their names for people."""


def draw_rows(labels: Labels, classes: tuple[str, ...], wanted: LabelShare, seed: int, draw: int) -> Labels:
    """Draw the rows whose labels are kept in a draw: of each class its share, rounded, or the number; a pure function.

    Raises BadInputError naming a class that has too few images.
    """
    rows = []
    for number, name in enumerate(classes):
        members = np.flatnonzero(labels == number)
        if wanted.share is None:
            count = wanted.number or 0
            if count > len(members):
                do = f"give at most {len(members)}" if len(members) else "add images, or leave it out (--exclude)"
                raise BadInputError(f"--labels {count}: class {name!r} has only {len(members)} training images: {do}")
        else:
            count = math.floor(wanted.share / 100 * len(members) + 0.5)
            if count == 0:
                raise BadInputError(
                    f"--labels {wanted.share:g}%: that leaves none of the {len(members)} training images of class "
                    f"{name!r}: give a larger share, or a number for each class"
                )
        epoch = 1 + draw * len(classes) + number  # 0 is the monitor's split
        order = permute(range(count), len(members), seed=seed, stream=Stream.SPLIT, epoch=epoch)
        rows.append(members[order])
    return np.concatenate(rows)


def fit_few(
    subject: Subject, images: Images, test: Mapping[int, Features], truth: Labels, config: LowshotConfig, seed: int
) -> tuple[Scores, float, int]:
    """Score the linear classifier of a draw, and return its penalty and grid, chosen by cross-validation in the draw.

    `test` holds the features of the test images over each grid.
    """
    labels, device = labels_of(images), str(next(subject.encoder.parameters()).device)
    read = [one for one in encode_to_learn(subject, images, config, seed) if one[0].grid in test]
    candidates = [Candidate(features, divide(labels, features[0])) for _, features in read]
    best, found = fit_best(candidates, labels, len(images.classes), config.penalties, device)
    division = read[best][0]
    logits = found.classifier.logits(division(test[division.grid]))
    return score_logits(logits, truth), found.penalty, division.grid


def evaluate_lowshot(
    subject: Subject, images: Labelled, config: LowshotConfig, title: str
) -> tuple[dict[str, Any], dict[str, list[Labels]]]:
    """Measure both figures over all draws, in percent: mean, sample standard deviation and each.

    Returns with them the classes that were predicted for the test images, draw by draw, of each of the two WAYS.
    """
    wanted, test_labels = read_label_share(config.labels), labels_of(images.test)
    drawn = [
        draw_rows(labels_of(images.train), images.classes, wanted, config.seed, draw) for draw in range(config.draws)
    ]
    grids = list_grids(subject.encoder, subject.how, len(images.test)) if config.parts and not config.views else (1,)
    said = f"{title}: encoding {len(images.test)} images"
    test = dict(zip(grids, encode_divided(subject.encoder, images.test, subject.how, grids, said), strict=True))
    linear, penalties, chosen = list[Scores](), list[float](), list[int]()
    started = time.monotonic()
    for number, rows in enumerate(drawn):
        labelled_images = hold(Subset(images.train, rows))
        found, penalty, grid = fit_few(subject, labelled_images, test, test_labels, config, config.seed + number)
        linear.append(found)
        penalties.append(penalty)
        chosen.append(grid)
    result: dict[str, Any] = {
        "images": len(drawn[0]),
        "linear": {**spread([one.top1 for one in linear]), "penalty": penalties, "grid": chosen},
        "linear_seconds": round(time.monotonic() - started, 2),
    }
    predicted = {"linear": [one.predicted for one in linear]}
    if config.finetune_steps:
        started, tuned = time.monotonic(), list[Scores]()
        for number, rows in enumerate(drawn):
            recipe = Finetuning(
                config.finetune_steps, config.finetune_lr, config.batch_size, seed=config.seed + number,
                warmup_steps=config.finetune_steps // 20,
            )  # fmt: skip
            said = f"{title}: fine-tuning, draw {number + 1} of {config.draws}"
            tuned.append(finetune_and_score(subject, hold(Subset(images.train, rows)), images.test, recipe, said))
        seconds = round(time.monotonic() - started, 2)
        result |= {"finetune": spread([one.top1 for one in tuned]), "finetune_seconds": seconds}
        predicted["finetune"] = [one.predicted for one in tuned]
    return result, predicted


def add_leads(
    other: dict[str, Any], predicted: Mapping[str, list[Labels]], own: Mapping[str, list[Labels]], truth: Labels
) -> None:
    """Add to a baseline's figures by how many points the encoder is better: `difference`, `low` and `high`."""
    for way, guesses in predicted.items():
        other[way] |= dataclasses.asdict(compare_draws(own[way], guesses, truth))


def describe_lowshot(title: str, result: dict[str, Any], config: LowshotConfig) -> str:
    """Describe the figures in a line, with the encoder's lead over those of a baseline."""
    found = [_describe_figures(word, result[way]) for way, word in WAYS.items() if way in result]
    labelled = f"{counted(result['images'], 'image')}, {counted(config.draws, 'draw')}"
    return f"{title}, labels {config.labels} ({labelled}): top-1 {', '.join(found)}"


def _describe_figures(way: str, figures: dict[str, Any]) -> str:
    deviation = "" if figures["deviation"] is None else f" ± {figures['deviation']:.2f}"
    lead = f" (the encoder {describe_lead(figures)})" if "difference" in figures else ""
    return f"{way} {figures['mean']:.2f}{deviation}%{lead}"
