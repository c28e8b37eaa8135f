"""Commands that join the loop and the evaluations, which do not know each other."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from moco.config import PretrainConfig, ResumeConfig, check
from moco.configfile import from_json
from moco.core.encoder import Encoder
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import Split, load, monitor_split
from moco.data.images import Images, evenly, hold
from moco.data.replacement import readable
from moco.errors import BadInputError, one_line
from moco.evaluation.alignment import align_uniform
from moco.evaluation.features import Encoding
from moco.evaluation.knn import knn
from moco.evaluation.vitals import vitals
from moco.prepare import build_batches
from moco.pretrain import pretrain as train
from moco.record import Checkup, Monitor
from moco.runtime import distributed
from moco.runtime.device import resolve_device, resolve_precision
from moco.transfer.command import transfer
from moco.transfer.config import TransferConfig

UNLABELLED_IMAGES = 2048
"""Images that the monitor without labels looks at."""


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """`moco pretrain`: train on the images of `config.data`, with a monitor that suits them."""
    check(config)
    splits = load(config.data)
    splits["train"] = hold(splits["train"])
    monitor, checkup = build_monitor(config, splits), build_checkup(config, splits["train"])
    result = train(config, splits["train"], monitor, checkup=checkup)
    distributed.stop()
    return result


def resume(config: ResumeConfig) -> dict[str, Any]:
    """`moco resume`: go on with a run by its own config."""
    path = config.run / "config.json"
    if not path.is_file():
        raise BadInputError(f"{config.run}: no run to go on with, expected a folder with a config.json")
    now: dict[str, Any] = {
        "out": config.run, "json": config.json, "accept_changed_data": config.accept_changed_data,
    }  # fmt: skip
    if config.workers is not None:
        now["workers"] = config.workers
    if is_transfer(path.read_bytes()):
        return transfer(dataclasses.replace(from_json(TransferConfig, path.read_bytes(), path), **now))
    settled = from_json(PretrainConfig, path.read_bytes(), path)
    return pretrain(dataclasses.replace(settled, **now))


def is_transfer(config: bytes) -> bool:
    """Whether a run's config is that of a transfer: only these have a task."""
    try:
        values = json.loads(config)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "task" in values


def build_monitor(config: PretrainConfig, splits: dict[Split, Images]) -> Monitor:
    """KNN accuracy where there are labels; alignment and uniformity, and the reason, where there are none."""
    device = resolve_device(config.device)
    how = Encoding(config.image_size, config.mean, config.std, precision=resolve_precision(config.precision, device))
    bank, queries = monitor_split(splits)
    reason = "without labels (class folders)" if bank.labels is None or queries.labels is None else None
    if reason is None and len(bank.classes) < 2:
        reason = f"with one class only ({one_line(bank.classes[0])})"
    if reason is not None:
        print(f"the images come {reason}: no kNN accuracy; watching alignment and uniformity instead")
        seen = readable(evenly(splits["train"], UNLABELLED_IMAGES))
        return lambda encoder: align_uniform(encoder, seen, AUGMENTATIONS[config.augment], how)
    bank = readable(evenly(bank, config.knn_images))
    queries = readable(evenly(queries, max(1, config.knn_images // 5)))

    def monitor(encoder: Encoder) -> dict[str, float]:
        figures = knn(encoder, bank, queries, how, k=config.knn_k, temperature=config.knn_temperature)
        return {f"knn_{name}": value for name, value in figures.items()}

    return monitor


def build_checkup(config: PretrainConfig, images: Images) -> Checkup:
    """What a run's health is judged by, beside its loss: its own images and keys."""
    config = dataclasses.replace(config, device=resolve_device(config.device))
    precision = resolve_precision(config.precision, config.device)

    def checkup(modules: Mapping[str, nn.Module]) -> dict[str, float]:
        return vitals(modules, build_batches(config, images), symmetric=config.symmetric, precision=precision)

    return checkup
