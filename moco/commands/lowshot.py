"""`moco lowshot`: few labels."""

from typing import Any

from moco.evaluation.config import RANDOM, LowshotConfig
from moco.evaluation.label_share import read_label_share
from moco.evaluation.lowshot import evaluate_lowshot
from moco.evaluation.session import (
    at_random,
    keep_evaluation,
    load_labelled,
    require_penalties,
    session,
    with_workers,
)


def run(config: LowshotConfig) -> dict[str, Any]:
    """`moco lowshot`: linear classifier and fine-tuned network with few labels, beside random weights."""
    read_label_share(config.labels)  # report a mistake in it before anything is read
    require_penalties(config.penalties)
    with session(config) as subject:
        images = load_labelled(config.data)
        subject = with_workers(config, subject, images.train)
        result: dict[str, Any] = {
            "labels": config.labels, "draws": config.draws, "weights": config.weights, "data": config.data,
            "test": len(images.test), **evaluate_lowshot(subject, images, config, config.weights), "baselines": {},
        }  # fmt: skip
        if config.baseline and config.weights != RANDOM:
            random = at_random(config, subject)
            result["baselines"]["random"] = evaluate_lowshot(random, images, config, "random weights")
        keep_evaluation(config, result)
    return result
