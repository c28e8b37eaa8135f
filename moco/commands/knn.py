"""`moco knn`: weighted kNN accuracy of an encoder, beside random weights, raw pixels and other weights."""

import copy
import dataclasses
import time
from typing import Any

from torch import nn

from moco.data.loader import choose_workers
from moco.errors import BadInputError, counted, spell_images
from moco.evaluation.again import encode_again
from moco.evaluation.baselines import PIXELS, join_like, keep_when_done, load_baselines, say_gain
from moco.evaluation.config import RANDOM, KnnConfig
from moco.evaluation.feature_whitening import ROWS, FeatureWhitener
from moco.evaluation.knn import knn_scores
from moco.evaluation.origin import describe_origin
from moco.evaluation.scores import Scores, describe_predictions
from moco.evaluation.session import Subject, labels_of, load_labelled, say, session


def run(config: KnnConfig) -> dict[str, Any]:
    """`moco knn`: top-1 and top-5 of an encoder on labelled images; kept in the run's folder where it is one's."""
    if config.whiten and config.features == "head":
        raise BadInputError("--features head: --whiten is for the backbone's features: leave out one of them")
    with session(config) as subject:
        baselines = load_baselines(config, subject)
        weights = subject.weights
        images = load_labelled(config.data, config.exclude, weights.white_level, weights.form, text=subject.how.text)
        workers = choose_workers(config.workers, images.train)

        def evaluate(subject: Subject, title: str, whiten: bool = config.whiten) -> tuple[Scores, int]:
            how = dataclasses.replace(subject.how, stored=config.bank, workers=workers)
            encoder = subject.encoder
            if whiten:
                encoder, how = copy.deepcopy(encoder), dataclasses.replace(how, output="backbone")
                encoder.whitening = nn.Identity()
                whitener = FeatureWhitener.build(images.train, ROWS, how, config.knn_temperature)
                found = dataclasses.replace(whitener, keeps=True)(encoder)
                if found is not None:
                    found.add_to(encoder)
            return knn_scores(
                encoder, images.train, images.test, how, k=config.knn_k, temperature=config.knn_temperature,
                title=title, encoded=encode_again,
            )  # fmt: skip

        started = time.monotonic()
        found, k = evaluate(subject, "kNN")
        seconds = time.monotonic() - started
        bank, queries = len(images.train), len(images.test)
        result: dict[str, Any] = {
            **found.figures, "weights": config.weights, "data": config.data, "bank": bank, "queries": queries,
            "k": k, "k_chosen": config.knn_k is None, "seconds": round(seconds, 2),
            "whitened": config.whiten or subject.whitens,
            **describe_origin(config.weights, images, "bank", "queries"), "baselines": {},
        }  # fmt: skip
        chosen = ", chosen by leave-one-out" if config.knn_k is None else ""
        say(
            f"{config.weights}: kNN {found.describe(len(images.classes))} of {counted(queries, 'image')} of "
            f"{spell_images(result['measured_on'])} (k {k}{chosen}; {bank} training images vote)"
        )
        with keep_when_done(config, result, **describe_predictions(images.test, found.predicted)):
            for one in baselines:
                baseline = join_like(subject, one, images.train, config.knn_temperature)
                alike = baseline.key in (RANDOM, PIXELS) and subject.whitens  # else whitening would pass for learning
                whiten = config.whiten or (alike and baseline is one)
                own, own_k = evaluate(baseline.subject, f"kNN, {baseline.name}", whiten)
                gain = baseline.compare(found, own, labels_of(images.test), k=own_k)
                result["baselines"][baseline.key] = gain
                say(say_gain(baseline.name, own, f"k {own_k}", gain))
    return result
