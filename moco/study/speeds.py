"""How many images there are and how fast they are trained on and encoded: what a plan's time is estimated by.

Runs in a process of its own: it imports torch, and the study's process must stay small, since those that it starts take
over its peak memory.
"""

import time
from pathlib import Path
from typing import Any

from moco.data.catalog import load
from moco.data.decoding import limit_pixels
from moco.data.derived import take_evenly
from moco.data.images import Images, hold
from moco.data.splits import final_split, training_images
from moco.evaluation.features import Encoding, encode
from moco.evaluation.session import require_labels
from moco.pretraining.config import PretrainConfig
from moco.pretraining.prepare import build_encoder, resolve_config
from moco.pretraining.timing import time_training
from moco.runtime.fields import require
from moco.study.config import StudyConfig
from moco.study.plan import build_training, select_arms
from moco.study.sweep import settle_study

SECONDS = 1.0
"""How long each kind of training is timed."""
ENCODED = 512
COSTS = (
    "arch", "stem", "head", "dictionary", "batch_size", "augment", "view_size", "image_size", "symmetric", "queue_size",
    "hard_negatives", "mix", "mix_query", "blend", "accumulate", "batch_keys", "predictor", "optimizer",
)  # fmt: skip
"""Settings that the time of a step depends on."""
LIKE = 4096
"""Queues and banks of up to so many keys cost a step about the same."""
ENDLESS = 1_000_000


def measure_speeds(config: StudyConfig, folder: Path, case: str) -> dict[str, Any]:
    """Images in all splits, seconds to read them, and images per second: of each arm's training, and encoded."""
    with limit_pixels(config.most_pixels):
        return _measure_speeds(config)


def _measure_speeds(config: StudyConfig) -> dict[str, Any]:
    study, started = settle_study(config), time.monotonic()
    splits = load(config.data, config.exclude)
    bank, queries = final_split(splits)
    if study.evaluate:
        require_labels(bank, queries)  # an evaluation would find that out after the first training
    every = training_images(splits)
    count, whole = len(every), sum(len(images) for images in splits.values())
    kept, _ = select_arms(study, config, count)
    images = hold(
        take_evenly(every, max([1024, *(2 * build_training(study, a, config, count).batch_size for a in kept)]))
    )
    loading = (time.monotonic() - started) * whole / len(images)
    rates, known = {}, dict[tuple[Any, ...], float]()
    for arm in kept:
        trained = build_training(study, arm, config, count)
        kind = tuple(
            getattr(trained, name) if name != "queue_size" else max(LIKE, trained.queue_size) for name in COSTS
        )
        if kind not in known:
            known[kind] = _rate(trained, images)
        rates[arm.name] = known[kind]
    encoded = _encoded_per_second(build_training(study, kept[0], config, count), images) if kept else 1.0
    return {
        "images": count, "all_images": whole, "tested": len(queries), "loading": round(loading, 2), "rates": rates,
        "encoded": encoded,
    }  # fmt: skip


def _rate(trained: PretrainConfig, images: Images) -> float:
    from dataclasses import replace

    if trained.dictionary != "in-batch":  # the trial has fewer images than the set
        trained = replace(trained, queue_size=min(trained.queue_size, len(images)))
    return float(time_training(replace(trained, max_steps=ENDLESS), images, SECONDS)["images_per_second"])


def _encoded_per_second(trained: PretrainConfig, images: Images) -> float:
    """Time the network with random weights, after a batch that does not count."""
    trained = resolve_config(trained, images)
    size, mean, std = require(trained.image_size), require(trained.mean), require(trained.std)
    encoder, how = build_encoder(trained).to(trained.device), Encoding(size, mean, std)
    encode(encoder, take_evenly(images, 64), how)
    some, started = take_evenly(images, ENCODED), time.monotonic()
    encode(encoder, some, how)
    return round(len(some) / (time.monotonic() - started), 1)
