"""Weighted k-nearest-neighbour classification (InstDisc, arXiv:1805.01978)."""

import json
from pathlib import Path
from typing import Any

import torch

from moco.config import IMAGENET_MEAN, IMAGENET_STD, KnnConfig, check
from moco.configfile import to_json
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import final_split, load
from moco.data.images import Images, Labels
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, encode
from moco.interop.checkpoints import Weights, load_weights, random_weights
from moco.runtime.device import resolve_device, resolve_precision, set_threads
from moco.runtime.runlog import write_text
from moco.shapes import Bank, Features

QUERIES_AT_A_TIME = 1024


def weighted_knn(
    bank: Bank,
    bank_labels: Labels,
    queries: Features,
    query_labels: Labels,
    *,
    k: int,
    temperature: float,
    classes: int,
) -> dict[str, float]:
    """Percentages top1 and top5 of queries whose class gets most of the votes of the k most similar features.

    A neighbour's vote weighs exp(similarity / t). bank is (B, C) and queries (N, C), all of unit length. A bank of
    fewer than k features votes as a whole.
    """
    labels, truth = torch.from_numpy(bank_labels), torch.from_numpy(query_labels)
    hits = torch.zeros(2)
    for part, own in zip(torch.split(queries, QUERIES_AT_A_TIME), torch.split(truth, QUERIES_AT_A_TIME), strict=True):
        similarity, neighbour = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        weight = ((similarity - similarity[:, :1]) / temperature).exp()  # the nearest one's is 1: none overflows
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[neighbour], weight)
        ranking = votes.sort(dim=1, descending=True, stable=True).indices
        correct = ranking[:, :5] == own[:, None]
        hits += torch.stack([correct[:, 0].sum(), correct.any(1).sum()])
    top1, top5 = (100 * hits / len(queries)).tolist()
    return {"top1": round(top1, 3), "top5": round(top5, 3)}


def knn(
    encoder: Encoder, bank: Images, queries: Images, how: Encoding, *, k: int, temperature: float
) -> dict[str, float]:
    """Classify the queries by the bank's features. Raises BadInputError where either has no labels."""
    if bank.labels is None or queries.labels is None or len(bank.classes) < 2:
        raise BadInputError("kNN needs labels: class folders, at least two")
    return weighted_knn(
        encode(encoder, bank, how), bank.labels, encode(encoder, queries, how), queries.labels,
        k=k, temperature=temperature, classes=len(bank.classes),
    )  # fmt: skip


def run(config: KnnConfig) -> dict[str, Any]:
    """`moco knn`: top-1 and top-5 of an encoder on labelled images; kept in the run's folder where it is one's."""
    check(config)
    set_threads(config.threads)
    device = resolve_device(config.device)
    weights = _weights(config)
    bank, queries = final_split(load(config.data))
    how = Encoding(
        config.image_size or weights.encoder.plan.image_size, weights.mean, weights.std, config.features,
        config.batch_size, resolve_precision(config.precision, device),
    )  # fmt: skip
    encoder = weights.encoder.to(device).to(memory_format=torch.channels_last)
    figures = knn(encoder, bank, queries, how, k=config.knn_k, temperature=config.knn_temperature)
    result = {**figures, "weights": config.weights, "data": config.data, "bank": len(bank), "queries": len(queries)}
    print(
        f"{config.weights}: kNN top-1 {figures['top1']:.2f}%, top-5 {figures['top5']:.2f}% "
        f"({len(queries)} queries, {len(bank)} images in the bank)"
    )
    if Path(config.weights).is_dir():
        folder = Path(config.weights) / "evaluations"
        folder.mkdir(exist_ok=True)
        write_text(folder / "knn.json", json.dumps({**result, "config": json.loads(to_json(config))}, indent=2) + "\n")
    return result


def _weights(config: KnnConfig) -> Weights:
    if config.weights != "random":
        return load_weights(config.weights)
    if config.like is not None:
        like = load_weights(str(config.like))
        return random_weights(like.encoder.plan, config.seed, like.mean, like.std)
    if config.arch is None or config.image_size is None:
        raise BadInputError("--weights random: give --like RUN, or --arch and --image-size")
    plan = EncoderPlan(config.arch, config.stem, image_size=config.image_size)
    return random_weights(plan, config.seed, IMAGENET_MEAN, IMAGENET_STD)
