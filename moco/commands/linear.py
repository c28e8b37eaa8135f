"""`moco linear`: a linear classifier on frozen features, beside its baselines."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco.data.images import Labels
from moco.evaluation.baselines import SUPERVISED, Baseline, baselines_of, say_gain
from moco.evaluation.config import LinearConfig, Protocol
from moco.evaluation.finetune import Finetuning, finetuned
from moco.evaluation.linear import evaluate
from moco.evaluation.origin import origin
from moco.evaluation.scores import Scores, beside, in_detail, paired_interval
from moco.evaluation.session import (
    Labelled,
    Subject,
    at_random,
    keep,
    kept,
    labelled,
    labels_of,
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
        compared_with = baselines_of(config, subject)
        images = labelled(config.data)
        subject = with_workers(config, subject, images.train)
        started = time.monotonic()
        found, told = evaluate(subject, images, config)
        before = told.pop("seconds_before", 0.0)  # by a command that was stopped
        result: dict[str, Any] = {
            **found.figures, "protocol": config.protocol, "seconds": round(time.monotonic() - started + before, 2),
            "weights": config.weights, "data": config.data, "train": len(images.train), "test": len(images.test),
            **origin(config.weights, images, "train", "test"), **told,
        }  # fmt: skip
        say(
            f"{config.weights}: linear ({config.protocol}) top-1 {found.top1:.2f}%, top-5 {found.top5:.2f}% "
            f"({setting(told)}; {len(images.test)} images of {result['measured_on']}; {len(images.train)} images to "
            f"learn from; {result['seconds']:.0f} s)"
        )
        result["baselines"] = measure_baselines(config, compared_with, subject, images, found)
        agreement = compared(config, result, found.predicted, labels_of(images.test))
        if agreement is not None:
            result["agreement"] = agreement
        if config.protocol == "paper":
            result["advice"] = advise(result, len(images.classes))
            if result["advice"]:
                say(result["advice"])
        keep(config, result, **in_detail(images.test, found.predicted))
    return result


def setting(told: dict[str, Any]) -> str:
    """Name the rate of a training, or the penalty that was chosen."""
    return f"lr {told['lr']:g}" if "lr" in told else f"penalty {told['penalty']:g}"


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


def measure_baselines(
    config: LinearConfig, baselines: Sequence[Baseline], subject: Subject, images: Labelled, found: Scores
) -> dict[str, Any]:
    """Evaluate the baselines by the fast protocol, and the subject's network trained from random weights with labels.

    Each tells by how much `found` is better, and by which protocol it was evaluated: that of the papers would take
    hours for each.
    """
    truth, results = labels_of(images.test), dict[str, Any]()
    quick = dataclasses.replace(config, protocol="fast")
    for baseline in baselines:
        started = time.monotonic()
        own = with_workers(config, baseline.subject, images.train)
        other, told = evaluate(own, images, quick, f"linear, {baseline.name}")
        more = {"penalty": told["penalty"], "protocol": "fast", "seconds": round(time.monotonic() - started, 2)}
        results[baseline.key] = baseline.compare(found, other, truth, **more)
        protocol = "" if config.protocol == "fast" else "by the fast protocol, "
        say(say_gain(baseline.name, other, f"{protocol}{setting(told)}", results[baseline.key]))
    if config.supervised_epochs:
        steps = config.supervised_epochs * max(1, len(images.train) // config.batch_size)
        recipe = Finetuning(steps, batch_size=config.batch_size, seed=config.seed)
        started = time.monotonic()
        supervised = finetuned(at_random(config, subject), images.train, images.test, recipe, "supervised from scratch")
        seconds = round(time.monotonic() - started, 2)
        gain = beside(found, supervised, truth)
        results[SUPERVISED] = {**gain, "epochs": config.supervised_epochs, "seconds": seconds}
        say(say_gain("training from scratch with labels", supervised, f"{config.supervised_epochs} epochs", gain))
    return results


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
