"""Memory by a formula: what each mechanism holds in the papers' setting, where it cannot be measured here."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder, EncoderPlan, parameter_count
from moco.study.config import StudyConfig

FORMULA = (
    "Bytes on a device with n of N images = 4 P (3 + f) + v n A + 4 C K + 12 n K: P parameters with gradient and "
    "momentum (and f = 1 for the second encoder of a queue), A bytes that one image's forward pass of the backbone "
    "and head keeps for the gradient (counted by autograd on ResNet-50 at 224 pixels in fp32), v = 2 views with "
    "gradient for end-to-end and else 1, C = 128, K keys, and three copies of the n K logits. What CUDA and cuDNN "
    "take for themselves, and buffers of convolutions, are not in it."
)
SETTINGS = (("queue, N = 256, K = 65536", 256, 65536, True, 5.0), ("end-to-end, N = 256", 256, 255, False, 7.4),
            ("end-to-end, N = 4096", 4096, 4095, False, 93.0))  # fmt: skip
"""Name, N, K, whether it is the queue, and GB in v2, Table 3 (the last is an estimate there too)."""
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


def formula_bytes(parameters: int, per_image: int, n: int, keys: int, *, queue: bool) -> float:
    """Return the formula, for n images on a device."""
    return 4 * parameters * (3 + queue) + (1 if queue else 2) * n * per_image + 4 * DIM * keys + 12 * n * keys


def papers_setting(config: StudyConfig, folder: Path, case: str) -> dict[str, Any]:
    """Return the formula's gigabytes beside the paper's, for its three settings."""
    encoder = Encoder(EncoderPlan("resnet50", "imagenet", "mlp", image_size=224))
    parameters, images = parameter_count(encoder), 2
    per_image = saved_bytes(encoder, torch.zeros(images, 3, 224, 224)) // images
    rows = [
        {"setting": name, "paper": paper,
         "gigabytes": formula_bytes(parameters, per_image, total // DEVICES, keys, queue=queue) / 1e9}
        for name, total, keys, queue, paper in SETTINGS
    ]  # fmt: skip
    return {"formula": FORMULA, "parameters": parameters, "bytes_per_image": per_image, "rows": rows}
