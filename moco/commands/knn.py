"""`moco knn`: weighted kNN accuracy of an encoder, beside random weights."""

import dataclasses
import time
from typing import Any

from moco.core.encoder import Encoder
from moco.evaluation.config import RANDOM, KnnConfig
from moco.evaluation.knn import knn_scores
from moco.evaluation.scores import Scores, compare_scores, describe_predictions
from moco.evaluation.session import at_random, keep_evaluation, labels_of, load_labelled, say, session, workers_for


def run(config: KnnConfig) -> dict[str, Any]:
    """`moco knn`: top-1 and top-5 of an encoder on labelled images; kept in the run's folder where it is one's."""
    with session(config) as subject:
        images = load_labelled(config.data)
        how = dataclasses.replace(subject.how, stored=config.bank, workers=workers_for(config, images.train))

        def evaluate(encoder: Encoder, title: str) -> Scores:
            return knn_scores(
                encoder, images.train, images.test, how, k=config.knn_k, temperature=config.knn_temperature, title=title
            )

        started = time.monotonic()
        found = evaluate(subject.encoder, "kNN")
        seconds = time.monotonic() - started
        bank, queries = len(images.train), len(images.test)
        result: dict[str, Any] = {
            **found.figures, "weights": config.weights, "data": config.data, "bank": bank, "queries": queries,
            "seconds": round(seconds, 2),
        }  # fmt: skip
        compared = ""
        if config.baseline and config.weights != RANDOM:
            random = evaluate(at_random(config, subject).encoder, "kNN, random weights")
            gain = compare_scores(found, random, labels_of(images.test))
            result["baselines"] = {"random": gain}
            compared = (
                f"; random weights {random.top1:.2f}% ({gain['difference']:+.2f} points, "
                f"95% interval {gain['low']:+.2f} to {gain['high']:+.2f})"
            )
        say(
            f"{config.weights}: kNN top-1 {found.top1:.2f}%, top-5 {found.top5:.2f}%{compared} "
            f"({queries} queries, {bank} images in the bank)"
        )
        keep_evaluation(config, result, **describe_predictions(images.test, found.predicted))
    return result
