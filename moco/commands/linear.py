"""`moco linear`: a linear classifier on frozen features, beside its baselines."""

import dataclasses
import time
from typing import Any

import numpy as np

from moco.data.images import Labels
from moco.evaluation.config import RANDOM, LinearConfig, Protocol
from moco.evaluation.finetune import Finetuning, finetuned
from moco.evaluation.linear import evaluate
from moco.evaluation.scores import Scores, beside, in_detail, paired_interval
from moco.evaluation.session import (
    Labelled,
    Subject,
    at_random,
    keep,
    kept,
    labelled,
    labels_of,
    require_rates,
    say,
    session,
    with_workers,
)


def run(config: LinearConfig) -> dict[str, Any]:
    """`moco linear`: top-1 and top-5 of a linear classifier on frozen features, beside its baselines."""
    require_rates(config.lrs)
    with session(config) as subject:
        images = labelled(config.data)
        subject = with_workers(config, subject, images.train)
        started = time.monotonic()
        found, told = evaluate(subject, images, config)
        before = told.pop("seconds_before", 0.0)  # by a command that was stopped
        result: dict[str, Any] = {
            **found.figures, "protocol": config.protocol, "seconds": round(time.monotonic() - started + before, 2),
            "weights": config.weights, "data": config.data, "train": len(images.train), "test": len(images.test),
            **told,
        }  # fmt: skip
        say(
            f"{config.weights}: linear ({config.protocol}) top-1 {found.top1:.2f}%, top-5 {found.top5:.2f}% "
            f"({len(images.test)} test images, lr {told['lr']:g}, {result['seconds']:.0f} s)"
        )
        result["baselines"] = baselines(config, subject, images, found)
        agreement = compared(config, result, found.predicted, labels_of(images.test))
        if agreement is not None:
            result["agreement"] = agreement
        keep(config, result, **in_detail(images.test, found.predicted))
    return result


def baselines(config: LinearConfig, subject: Subject, images: Labelled, own: Scores) -> dict[str, Any]:
    """Random weights under the fast protocol; the same network from random weights with all labels."""
    found: dict[str, Any] = {}
    if config.baseline and config.weights != RANDOM:
        quick = dataclasses.replace(config, protocol="fast")
        started = time.monotonic()
        random, told = evaluate(at_random(config, subject), images, quick, "linear, random weights")
        seconds = round(time.monotonic() - started, 2)
        gain = beside(own, random, labels_of(images.test))
        found["random"] = {**gain, "lr": told["lr"], "protocol": "fast", "seconds": seconds}
        say(
            f"random weights: linear (fast) top-1 {random.top1:.2f}%, top-5 {random.top5:.2f}% "
            f"({gain['difference']:+.2f} points, 95% interval {gain['low']:+.2f} to {gain['high']:+.2f})"
        )
    if config.supervised_epochs:
        steps = config.supervised_epochs * max(1, len(images.train) // config.batch_size)
        recipe = Finetuning(steps, batch_size=config.batch_size, seed=config.seed)
        started = time.monotonic()
        supervised = finetuned(at_random(config, subject), images.train, images.test, recipe, "supervised from scratch")
        seconds = round(time.monotonic() - started, 2)
        found["supervised"] = {**supervised.figures, "epochs": config.supervised_epochs, "seconds": seconds}
        say(
            f"supervised from scratch, {config.supervised_epochs} epochs: top-1 {supervised.top1:.2f}%, {seconds:.0f} s"
        )
    return found


def compared(config: LinearConfig, result: dict[str, Any], predicted: Labels, truth: Labels) -> dict[str, Any] | None:
    """The paired 95% interval of this protocol minus the other, where that was run on the same backbone and images."""
    other: Protocol = "paper" if config.protocol == "fast" else "fast"
    earlier = kept(dataclasses.replace(config, protocol=other))
    same = all(earlier.get(name) == result[name] for name in ("backbone", "data", "test"))
    guesses = earlier.get("predicted")
    whole = isinstance(guesses, list) and len(guesses) == len(truth) and all(type(guess) is int for guess in guesses)
    if not same or not whole:
        return None
    interval = paired_interval((predicted == truth).tolist(), (np.array(guesses) == truth).tolist())
    say(
        f"{config.protocol} minus {other}: {interval.difference:+.2f} points, "
        f"95% interval {interval.low:+.2f} to {interval.high:+.2f} (same test images)"
    )
    return {"with": other, **dataclasses.asdict(interval)}
