"""Memory by a formula: what each mechanism holds in the papers' setting, where it cannot be measured, and here."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder, EncoderPlan, parameter_count
from moco.pretraining.counts import negatives
from moco.pretraining.initial import encoder_plan
from moco.runtime.fields import require
from moco.study.config import StudyConfig
from moco.study.plan import build_training, select_arms
from moco.study.sweep import settle_study

FORMULA = (
    "Bytes on a device with n of N images = 4 P (3 + f) + v n A + 4 C S + 12 n K: P parameters with gradient and "
    "momentum (and f = 1 for the second encoder of a queue), A bytes that one image's forward pass of the backbone "
    "and head keeps for the gradient (counted by autograd in fp32; here on ResNet-50 at 224 pixels), v = 2 views with "
    "gradient for end-to-end and else 1, C = 128, K keys, S stored keys (K, or of a memory bank one for each image), "
    "and three copies of the n K logits. What CUDA and cuDNN take for themselves, and buffers of convolutions, are "
    "not in it."
)
SETTINGS = (("queue, N = 256, K = 65536", 256, 65536, "queue", 5.0), ("end-to-end, N = 256", 256, 255, "in-batch", 7.4),
            ("end-to-end, N = 4096", 4096, 4095, "in-batch", 93.0))  # fmt: skip
"""Name, N, K, the mechanism, and GB in v2, Table 3 (the last is an estimate there too)."""
DEVICES = 8
DIM = 128


def saved_bytes(encoder: nn.Module, x: Tensor) -> int:
    """Count the bytes that autograd keeps of a forward pass, without parameters and input."""
    own = {parameter.untyped_storage().data_ptr() for parameter in [*encoder.parameters(), *encoder.buffers(), x]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = encoder(x)  # held to the end, so that no place in memory is used twice
    assert y.requires_grad
    return sum(kept.values())


def formula_bytes(
    parameters: int, per_image: int, n: int, keys: int, dictionary: str, stored: int | None = None, dim: int = DIM
) -> float:
    """Return the formula, for n images on a device, by the mechanism that `dictionary` names."""
    f, views = int(dictionary == "queue"), 2 if dictionary == "in-batch" else 1
    kept = 4 * dim * (keys if stored is None else stored)
    return 4 * parameters * (3 + f) + views * n * per_image + kept + 12 * n * keys


def count_memory(config: StudyConfig, folder: Path, case: str) -> dict[str, Any]:
    """Return the formula's gigabytes beside the paper's for its three settings, and its bytes for each arm.

    `case` is the number of images, as text, for which a memory bank has an entry each.
    """
    parameters, per_image = _measure_encoder(EncoderPlan("resnet50", "imagenet", "mlp", image_size=224), 224)
    rows = [
        {"setting": name, "paper": paper,
         "gigabytes": formula_bytes(parameters, per_image, total // DEVICES, keys, dictionary) / 1e9}
        for name, total, keys, dictionary, paper in SETTINGS
    ]  # fmt: skip
    study, images, arms = settle_study(config), int(case), dict[str, Any]()
    for arm in select_arms(study, config, images)[0]:
        trained = build_training(study, arm, config, images)
        size, bank = require(trained.view_size or trained.image_size), trained.dictionary == "memory-bank"
        own = formula_bytes(
            *_measure_encoder(encoder_plan(trained), size), trained.batch_size, negatives(trained), trained.dictionary,
            stored=images if bank else None, dim=trained.feature_dim,
        )  # fmt: skip
        arms[arm.name] = {"bytes": own, "batch": trained.batch_size}
    return {"formula": FORMULA, "parameters": parameters, "bytes_per_image": per_image, "rows": rows, "arms": arms}


@functools.cache
def _measure_encoder(plan: EncoderPlan, size: int) -> tuple[int, int]:
    """Parameters, and bytes that the forward pass of one image keeps."""
    encoder = Encoder(plan)
    return parameter_count(encoder), saved_bytes(encoder, torch.zeros(2, plan.channels, size, size)) // 2
