"""The measured networks, views and dictionaries. Imports no torch, because the waiting process needs none."""

from typing import Any

from moco.pretraining.recipes import RECIPES

CIFAR10, V2 = RECIPES["cifar10"].values, RECIPES["v2"].values
PATCHES, JPEGS = "patches.npy", "jpeg"
"""The files with a measurement's images in its folder: (n, 32, 32, 3) bytes, and files of 500 x 375 pixels."""

TRAININGS: dict[str, dict[str, Any]] = {
    "resnet18-3x3-stem-32": {**CIFAR10, "batch_size": 128, "bn_groups": 8},
    "resnet18-usual-stem-32": {**CIFAR10, **V2, "stem": "imagenet", "batch_size": 256, "bn_groups": 8},
    "resnet50-224": {**V2, "arch": "resnet50", "batch_size": 16, "bn_groups": 4},
}
"""Configs of the loop, by name. At 224 pixels the images are JPEG files, otherwise they are in memory."""
ON_GPU: dict[str, dict[str, Any]] = {
    "resnet18-3x3-stem-32": {"batch_size": 512},
    "resnet18-usual-stem-32": {"batch_size": 512},
    "resnet50-224": {"batch_size": 256, "bn_groups": 8},
}
"""What differs on a GPU, which smaller batches would leave idle."""


def training_values(case: str, device: str) -> dict[str, Any]:
    """Look up the config of a case on a device."""
    return TRAININGS[case] | (ON_GPU[case] if device == "cuda" else {})


VIEWS: dict[str, dict[str, Any]] = {
    "cifar-32-memory": {**CIFAR10, "batch_size": 256},
    "v2-32-memory": {**CIFAR10, **V2, "batch_size": 256},
    "v2-224-jpeg": {**V2, "batch_size": 16},
}
"""Configs of the views, by name."""

DICTIONARIES = {"batch-32": 32, "batch-256": 256}
"""Batch sizes for which the queue's cost is measured."""
QUEUE_SIZES = (4096, 8192, 16384, 32768, 65536)
