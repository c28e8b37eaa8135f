"""`moco linear`: a linear classifier on frozen features, beside its baselines."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco.data.images import Labels
from moco.errors import counted, spell_images
from moco.evaluation.baselines import SUPERVISED, Baseline, join_like, keep_when_done, load_baselines, say_gain
from moco.evaluation.config import KnnConfig, LinearConfig, Protocol
from moco.evaluation.finetune import Finetuning, finetune_and_score
from moco.evaluation.linear import evaluate_linear
from moco.evaluation.origin import describe_origin
from moco.evaluation.scores import Scores, compare_scores, describe_lead, describe_predictions, paired_interval
from moco.evaluation.session import (
    Labelled,
    Subject,
    at_random,
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
        compared_with = load_baselines(config, subject)
        weights = subject.weights
        images = load_labelled(config.data, config.exclude, weights.white_level, weights.form, text=subject.how.text)
        subject = with_workers(config, subject, images.train)
        started = time.monotonic()
        found, details = evaluate_linear(subject, images, config)
        before = details.pop("seconds_before", 0.0)  # by a command that was stopped
        result: dict[str, Any] = {
            **found.figures, "protocol": config.protocol, "seconds": round(time.monotonic() - started + before, 2),
            "weights": config.weights, "data": config.data, "train": len(images.train), "test": len(images.test),
            **describe_origin(config.weights, images, "train", "test"), **details, "baselines": {},
        }  # fmt: skip
        say(
            f"{config.weights}: linear ({config.protocol}) {found.describe(len(images.classes))} "
            f"({describe_rate(details)}; {counted(len(images.test), 'image')} of "
            f"{spell_images(result['measured_on'])}; "
            f"{counted(len(images.train), 'image')} to learn from; {result['seconds']:.0f} s)"
        )
        with keep_when_done(config, result, **describe_predictions(images.test, found.predicted)):
            result["baselines"] = measure_baselines(config, compared_with, subject, images, found)
            agreement = compare_protocols(config, result, found.predicted, labels_of(images.test))
            if agreement is not None:
                result["agreement"] = agreement
            if config.protocol == "paper":
                result["advice"] = advise(result, len(images.classes))
                if result["advice"]:
                    say(result["advice"])
    return result


def describe_rate(details: dict[str, Any]) -> str:
    """Name the rate of a training, or the penalty and the parts of an image that were chosen."""
    if "lr" in details:
        return f"lr {details['lr']:g}"
    return f"penalty {details['penalty']:g}{describe_grid(details['grid'], ', ')}"


def describe_grid(grid: int, before: str) -> str:
    """Say which parts of an image a classifier reads; nothing of whole images."""
    return f"{before}{grid}x{grid} parts of each image" if grid > 1 else ""


def advise(result: dict[str, Any], classes: int) -> str | None:
    """Say with its evidence that the rate of the papers' protocol does not suit the features; None where it may.

    Guessing has the loss log K: a classifier that is worse on its own training images has not found a minimum. A rate
    may also be too small for that; then the fast protocol, which finds the minimum, is better.
    """
    rate, suiting, loss = result["lr"], result["suiting_lr"], result["training_loss"]
    agreement, guessing = result.get("agreement"), math.log(classes)
    if loss > guessing:
        evidence = f"its loss on the training images is {loss:.4g}, and guessing gives {guessing:.4g}"
    elif agreement and agreement.get("grid", 1) == 1 and agreement["high"] < 0 and not FAR > rate / suiting > 1 / FAR:
        evidence = f"the fast protocol is {-agreement['difference']:.2f} points better on the same images"
    else:
        return None
    return f"lr {rate:g} does not suit these features: {evidence}; try --lr {suiting:g}"


def measure_baselines(
    config: LinearConfig, baselines: Sequence[Baseline], subject: Subject, images: Labelled, found: Scores
) -> dict[str, Any]:
    """Evaluate the baselines by the fast protocol, and the subject's network trained from random weights with labels.

    Each result says by how much `found` is better. All are evaluated by the fast protocol, since the papers' would take
    hours for each, and say so; on whole images if `found` is by the papers'.
    """
    truth, results = labels_of(images.test), dict[str, Any]()
    quick = dataclasses.replace(config, protocol="fast", parts=config.parts and config.protocol == "fast")
    for one in baselines:
        started = time.monotonic()
        baseline = join_like(subject, one, images.train, KnnConfig.knn_temperature)
        own = with_workers(config, baseline.subject, images.train)
        other, details = evaluate_linear(own, images, quick, f"linear, {baseline.name}")
        chosen = {name: details[name] for name in ("penalty", "grid")}
        more = {**chosen, "protocol": "fast", "seconds": round(time.monotonic() - started, 2)}
        results[baseline.key] = baseline.compare(found, other, truth, **more)
        protocol = "" if config.protocol == "fast" else "by the fast protocol, "
        say(say_gain(baseline.name, other, f"{protocol}{describe_rate(details)}", results[baseline.key]))
    if config.supervised_epochs:
        steps = config.supervised_epochs * max(1, len(images.train) // config.batch_size)
        recipe = Finetuning(steps, batch_size=config.batch_size, seed=config.seed)
        started = time.monotonic()
        supervised = finetune_and_score(
            at_random(config, subject), images.train, images.test, recipe, "supervised from scratch"
        )
        seconds = round(time.monotonic() - started, 2)
        gain = compare_scores(found, supervised, truth)
        results[SUPERVISED] = {**gain, "epochs": config.supervised_epochs, "seconds": seconds}
        say(say_gain("training from scratch with labels", supervised, counted(config.supervised_epochs, "epoch"), gain))
    return results


def compare_protocols(
    config: LinearConfig, result: dict[str, Any], predicted: Labels, truth: Labels
) -> dict[str, Any] | None:
    """Compute the paired 95% interval of this protocol minus the other, if that ran on the same backbone and images."""
    other: Protocol = "paper" if config.protocol == "fast" else "fast"
    earlier = read_kept_evaluation(dataclasses.replace(config, protocol=other))
    same = all(earlier.get(name) == result[name] for name in ("backbone", "data", "test"))
    guesses = earlier.get("predicted")
    whole = isinstance(guesses, list) and len(guesses) == len(truth) and all(type(guess) is int for guess in guesses)
    if not same or not whole:
        return None
    interval = paired_interval((predicted == truth).tolist(), (np.array(guesses) == truth).tolist())
    grid = max(one.get("grid", 1) for one in (result, earlier))
    say(
        f"{config.protocol} minus {other}: {describe_lead(dataclasses.asdict(interval))} "
        f"(same test images{describe_grid(grid, ', fast with ')})"
    )
    return {"with": other, "grid": grid, **dataclasses.asdict(interval)}
