"""Plants faults among images and measures how many `moco outliers` lists first: precision at 50.

    python benchmarks/outliers.py RUN CIFAR10_FOLDER

takes 2,000 images of the test split, corrupts 50 (ten each: noise, a constant, inverted, blocks in another order,
blurred) and gives 50 others a wrong label, then prints the share of true faults among the first 50 of both lists, with
the encoder and with random weights.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage

import moco
from moco.data.images import Images

IMAGES, FAULTS, SEED = 2000, 50, 0


def corrupt(image: torch.Tensor, kind: int, random: torch.Generator) -> torch.Tensor:
    """One of five faults of an image (3, H, W)."""
    height, width = image.shape[1:]
    if kind == 0:
        return (image.float() + 60 * torch.randn(image.shape, generator=random)).clamp(0, 255).to(torch.uint8)
    if kind == 1:
        return image.float().mean((1, 2), keepdim=True).expand_as(image).to(torch.uint8)
    if kind == 2:
        return 255 - image
    if kind == 3:
        blocks = F.unfold(image[None].float(), (height // 4, width // 4), stride=(height // 4, width // 4))
        mixed = blocks[:, :, torch.randperm(blocks.shape[2], generator=random)]
        size = (height // 4 * 4, width // 4 * 4)
        return F.fold(mixed, size, (height // 4, width // 4), stride=(height // 4, width // 4))[0].to(torch.uint8)
    return F.avg_pool2d(image[None].float(), 11, 1, 5, count_include_pad=False)[0].to(torch.uint8)


def plant(images: Images, folder: Path) -> tuple[set[str], set[str]]:
    """Write images with faults as class folders; the paths of the corrupted and of the mislabelled."""
    order = np.random.default_rng(SEED)
    random = torch.Generator().manual_seed(SEED)
    rows = order.permutation(len(images))[:IMAGES]
    bad = order.permutation(IMAGES)[: 2 * FAULTS]
    assert images.labels is not None
    corrupted, mislabelled = set(), set()
    for name in images.classes:
        (folder / name).mkdir(parents=True)
    for place, row in enumerate(rows.tolist()):
        image, label = images[row], int(images.labels[row])
        if place in bad[:FAULTS]:
            image = corrupt(image, int(np.flatnonzero(bad == place)[0]) % 5, random)
        if place in bad[FAULTS:]:
            label = (label + int(order.integers(1, len(images.classes)))) % len(images.classes)
        path = f"{images.classes[label]}/{place}.png"
        PillowImage.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / path)
        if place in bad[:FAULTS]:
            corrupted.add(path)
        if place in bad[FAULTS:]:
            mislabelled.add(path)
    return corrupted, mislabelled


def main() -> None:
    """Plant, list, count."""
    run, data = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        corrupted, mislabelled = plant(moco.load(data)["test"], Path(folder) / "images")
        with contextlib.redirect_stdout(sys.stderr):
            found = moco.run(
                "outliers", weights=run, data=f"{folder}/images", top=FAULTS, out=f"{folder}/out", threads=1, workers=0
            )
    figures = {}
    for name, own in {"encoder": found, **found["baselines"]}.items():
        figures[name] = {
            "images": sum(one["path"] in corrupted for one in own["images"]) / FAULTS,
            "labels": sum(one["path"] in mislabelled for one in own["labels"]) / FAULTS,
        }
    print(json.dumps({"images": IMAGES, "precision_at_50": figures, "by_chance": FAULTS / IMAGES}))


if __name__ == "__main__":
    main()
