"""`moco lowshot`: few labels."""

import dataclasses
from typing import Any

from moco.evaluation.baselines import PIXELS, join_like, keep_when_done, load_baselines
from moco.evaluation.config import KnnConfig, LowshotConfig
from moco.evaluation.label_share import read_label_share
from moco.evaluation.lowshot import add_leads, describe_lowshot, evaluate_lowshot
from moco.evaluation.origin import describe_origin
from moco.evaluation.session import (
    labels_of,
    load_labelled,
    require_penalties,
    say,
    session,
    with_workers,
)
from moco.interop.published import short_name


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
        found, predicted = evaluate_lowshot(subject, images, config, config.weights)
        say(describe_lowshot(config.weights, found, config))
        result: dict[str, Any] = {
            "labels": config.labels, "draws": config.draws, "weights": config.weights, "data": config.data,
            "test": len(images.test), **describe_origin(config.weights, images, "train", "test"),
            **found, "baselines": {},
        }  # fmt: skip
        with keep_when_done(config, result):
            for one in baselines:
                baseline = join_like(subject, one, images.train, KnnConfig.knn_temperature)
                own = with_workers(config, baseline.subject, images.train)
                asked = dataclasses.replace(config, finetune_steps=0) if baseline.key == PIXELS else config
                other, guesses = evaluate_lowshot(own, images, asked, baseline.name)
                add_leads(other, guesses, predicted, labels_of(images.test))
                say(describe_lowshot(short_name(baseline.name), other, config))
                result["baselines"][baseline.key] = other
    return result
