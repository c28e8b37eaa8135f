"""`moco lowshot`: few labels."""

import dataclasses
from typing import Any

from moco.evaluation.baselines import PIXELS, join_like, load_baselines
from moco.evaluation.config import KnnConfig, LowshotConfig
from moco.evaluation.label_share import read_label_share
from moco.evaluation.lowshot import evaluate_lowshot
from moco.evaluation.origin import describe_origin
from moco.evaluation.session import (
    keep_evaluation,
    load_labelled,
    require_penalties,
    session,
    with_workers,
)


def run(config: LowshotConfig) -> dict[str, Any]:
    """`moco lowshot`: linear classifier and fine-tuned network with few labels, beside baselines.

    Raw pixels, which are no network, are not fine-tuned.
    """
    read_label_share(config.labels)  # report a mistake in it before anything is read
    require_penalties(config.penalties)
    with session(config) as subject:
        baselines = load_baselines(config, subject)
        weights = subject.weights
        images = load_labelled(config.data, config.exclude, weights.white_level, weights.form, text=subject.how.text)
        subject = with_workers(config, subject, images.train)
        result: dict[str, Any] = {
            "labels": config.labels, "draws": config.draws, "weights": config.weights, "data": config.data,
            "test": len(images.test), **describe_origin(config.weights, images, "train", "test"),
            **evaluate_lowshot(subject, images, config, config.weights), "baselines": {},
        }  # fmt: skip
        for one in baselines:
            baseline = join_like(subject, one, images.train, KnnConfig.knn_temperature)
            own = with_workers(config, baseline.subject, images.train)
            asked = dataclasses.replace(config, finetune_steps=0) if baseline.key == PIXELS else config
            result["baselines"][baseline.key] = evaluate_lowshot(own, images, asked, baseline.name)
        keep_evaluation(config, result)
    return result
