"""`moco linear`: a linear classifier on frozen features, beside its baselines."""

import dataclasses
import math
import time
from typing import Any

import numpy as np

from moco.data.images import Labels
from moco.evaluation.config import RANDOM, LinearConfig, Protocol
from moco.evaluation.finetune import Finetuning, finetune_and_score
from moco.evaluation.linear import evaluate_linear
from moco.evaluation.scores import Scores, compare_scores, describe_predictions, paired_interval
from moco.evaluation.session import (
    Labelled,
    Subject,
    at_random,
    keep_evaluation,
    labels_of,
    load_labelled,
    read_kept_evaluation,
    require_penalties,
    say,
    session,
    with_workers,
)

FAR = 10
"""Times larger or smaller than the rate that suits."""


def run(config: LinearConfig) -> dict[str, Any]:
    """`moco linear`: top-1 and top-5 of a linear classifier on frozen features, beside its baselines."""
    require_penalties(config.penalties)
    with session(config) as subject:
        images = load_labelled(config.data)
        subject = with_workers(config, subject, images.train)
        started = time.monotonic()
        found, details = evaluate_linear(subject, images, config)
        before = details.pop("seconds_before", 0.0)  # by a command that was stopped
        result: dict[str, Any] = {
            **found.figures, "protocol": config.protocol, "seconds": round(time.monotonic() - started + before, 2),
            "weights": config.weights, "data": config.data, "train": len(images.train), "test": len(images.test),
            **details,
        }  # fmt: skip
        say(
            f"{config.weights}: linear ({config.protocol}) top-1 {found.top1:.2f}%, top-5 {found.top5:.2f}% "
            f"({len(images.test)} test images, {describe_rate(details)}, {result['seconds']:.0f} s)"
        )
        result["baselines"] = baselines(config, subject, images, found)
        agreement = compare_protocols(config, result, found.predicted, labels_of(images.test))
        if agreement is not None:
            result["agreement"] = agreement
        if config.protocol == "paper":
            result["advice"] = advise(result, len(images.classes))
            if result["advice"]:
                say(result["advice"])
        keep_evaluation(config, result, **describe_predictions(images.test, found.predicted))
    return result


def describe_rate(details: dict[str, Any]) -> str:
    """Name the rate of a training, or the penalty that was chosen."""
    return f"lr {details['lr']:g}" if "lr" in details else f"penalty {details['penalty']:g}"


def advise(result: dict[str, Any], classes: int) -> str | None:
    """Say with its evidence that the rate of the papers' protocol does not suit the features; None where it may.

    Guessing has the loss log K: a classifier that is worse on its own training images has not found a minimum. A rate
    may also be too small for that; then the fast protocol, which finds the minimum, is better.
    """
    rate, suiting, loss = result["lr"], result["suiting_lr"], result["training_loss"]
    agreement, guessing = result.get("agreement"), math.log(classes)
    if loss > guessing:
        evidence = f"on the training images its loss is {loss:.4g}, where guessing has {guessing:.4g}"
    elif agreement and agreement["high"] < 0 and not FAR > rate / suiting > 1 / FAR:
        evidence = f"the fast protocol is {-agreement['difference']:.2f} points better on the same images"
    else:
        return None
    return f"lr {rate:g} does not suit these features: {evidence}; try --lr {suiting:g}"


def baselines(config: LinearConfig, subject: Subject, images: Labelled, found: Scores) -> dict[str, Any]:
    """Random weights under the fast protocol, and the same network trained from random weights with all labels.

    Each tells by how much `found` is better.
    """
    truth, results = labels_of(images.test), dict[str, Any]()
    if config.baseline and config.weights != RANDOM:
        quick = dataclasses.replace(config, protocol="fast")
        started = time.monotonic()
        random, details = evaluate_linear(at_random(config, subject), images, quick, "linear, random weights")
        seconds = round(time.monotonic() - started, 2)
        gain = compare_scores(found, random, truth)
        results["random"] = {**gain, "penalty": details["penalty"], "protocol": "fast", "seconds": seconds}
        say(
            f"random weights: linear (fast) top-1 {random.top1:.2f}%, top-5 {random.top5:.2f}% "
            f"({gain['difference']:+.2f} points, 95% interval {gain['low']:+.2f} to {gain['high']:+.2f})"
        )
    if config.supervised_epochs:
        steps = config.supervised_epochs * max(1, len(images.train) // config.batch_size)
        recipe = Finetuning(steps, batch_size=config.batch_size, seed=config.seed)
        started = time.monotonic()
        supervised = finetune_and_score(
            at_random(config, subject), images.train, images.test, recipe, "supervised from scratch"
        )
        seconds = round(time.monotonic() - started, 2)
        gain = compare_scores(found, supervised, truth)
        results["supervised"] = {**gain, "epochs": config.supervised_epochs, "seconds": seconds}
        say(
            f"supervised from scratch, {config.supervised_epochs} epochs: top-1 {supervised.top1:.2f}%, {seconds:.0f} s"
        )
    return results


def compare_protocols(
    config: LinearConfig, result: dict[str, Any], predicted: Labels, truth: Labels
) -> dict[str, Any] | None:
    """The paired 95% interval of this protocol minus the other, where that was run on the same backbone and images."""
    other: Protocol = "paper" if config.protocol == "fast" else "fast"
    earlier = read_kept_evaluation(dataclasses.replace(config, protocol=other))
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
