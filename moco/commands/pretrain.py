"""`moco pretrain`: the loop on the images of a folder, with a monitor that suits them."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from moco.core.encoder import Encoder
from moco.core.pair import Teacher
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import Split, load
from moco.data.derived import make_readable, take_evenly
from moco.data.images import Images, hold
from moco.data.loader import choose_workers
from moco.data.splits import monitor_source, monitor_split
from moco.errors import one_line
from moco.evaluation.alignment import align_uniform
from moco.evaluation.features import Encoding
from moco.evaluation.knn import knn_scores
from moco.evaluation.pixels import build_raw_pixels
from moco.evaluation.scores import Scores
from moco.evaluation.teacher import load_teacher
from moco.evaluation.vitals import vitals
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import with_weights
from moco.pretraining.loop import pretrain
from moco.pretraining.monitor import Checkup, Monitor
from moco.pretraining.prepare import build_batches
from moco.runtime import distributed
from moco.runtime.device import isolated, resolve_device, resolve_precision, set_threads
from moco.runtime.fields import check, settled

UNLABELLED_IMAGES = 2048
"""Images that the monitor without labels looks at."""


def run(config: PretrainConfig) -> dict[str, Any]:
    """`moco pretrain`: train on the images of `config.data`, with a monitor that suits them."""
    check(config)
    config = with_weights(config)
    splits = load(config.data)
    splits["train"] = hold(splits["train"])
    teacher = build_teacher(config, splits["train"])
    if teacher is not None:
        config = dataclasses.replace(config, feature_dim=teacher.width)
    monitor, checkup = build_monitor(config, splits), build_checkup(config, splits["train"])
    result = pretrain(config, splits["train"], monitor, checkup=checkup, teacher=teacher)
    distributed.stop()
    return result


def build_teacher(config: PretrainConfig, images: Images) -> Teacher | None:
    """Load the teacher that `config` names, and encode the images by it; None where it names none."""
    if config.teacher is None:
        return None
    device = resolve_device(config.device)
    distributed.start(device, config.timeout)
    size, mean, std = settled(config.image_size), settled(config.mean), settled(config.std)
    student = Encoding(
        size, mean, std, precision=resolve_precision(config.precision, device),
        workers=choose_workers(images) if config.workers is None else config.workers,
    )  # fmt: skip
    cached = config.teacher_views == "cached"
    with isolated(device):
        set_threads(config.threads)
        return load_teacher(config.teacher, images, student, device, size=config.teacher_size, cached=cached)


def build_monitor(config: PretrainConfig, splits: dict[Split, Images]) -> Monitor:
    """KNN accuracy where there are labels; alignment and uniformity, and the reason, where there are none.

    Beside the accuracies stand the k by which they were found, how many queries there were, the percentage of these
    that is trained on, and the accuracy of raw pixels, which is computed once.
    """
    device = resolve_device(config.device)
    size, mean, std = settled(config.image_size), settled(config.mean), settled(config.std)
    how = Encoding(size, mean, std, precision=resolve_precision(config.precision, device))
    bank, queries = monitor_split(splits)
    reason = "without labels (class folders)" if bank.labels is None or queries.labels is None else None
    if reason is None and len(bank.classes) < 2:
        reason = f"with one class only ({one_line(bank.classes[0])})"
    if reason is not None:
        print(f"the images come {reason}: no kNN accuracy; watching alignment and uniformity instead")
        seen = make_readable(take_evenly(splits["train"], UNLABELLED_IMAGES))
        return lambda encoder: align_uniform(encoder, seen, AUGMENTATIONS[config.augment], how)
    bank = make_readable(take_evenly(bank, config.knn_images))
    queries = make_readable(take_evenly(queries, max(1, config.knn_images // 5)))

    trained_on = 100.0 if monitor_source(splits) == "tenth" else 0.0  # pre-training takes all of train

    def look(encoder: Encoder, how: Encoding) -> tuple[Scores, int]:
        return knn_scores(encoder, bank, queries, how, k=config.knn_k, temperature=config.knn_temperature)

    @cache
    def pixels() -> float:
        return look(*build_raw_pixels(how, device))[0].top1

    def monitor(encoder: Encoder) -> dict[str, float]:
        found, k = look(encoder, how)
        more = {"queries": float(len(queries)), "trained_on": trained_on, "k": float(k), "pixels": pixels()}
        return {f"knn_{name}": value for name, value in (found.figures | more).items()}

    return monitor


def build_checkup(config: PretrainConfig, images: Images) -> Checkup:
    """What a run's health is judged by, beside its loss: its own images and keys."""
    config = dataclasses.replace(config, device=resolve_device(config.device))
    precision = resolve_precision(config.precision, config.device)

    def checkup(modules: Mapping[str, nn.Module]) -> dict[str, float]:
        return vitals(modules, build_batches(config, images), symmetric=config.symmetric, precision=precision)

    return checkup
