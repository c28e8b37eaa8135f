"""Plants faults among images and measures how many `moco outliers` lists first: precision at 50.

    python benchmarks/outliers.py WEIGHTS CIFAR10_FOLDER [IMAGE_SIZE]

takes 5,000 images of the test split, corrupts 50 (ten each: noise, a constant, inverted, blocks in another order,
blurred) and gives 50 others a wrong label, then prints the share of true faults among the first 50 of both lists, and
of each kind of corruption the share that is found, with the encoder and with random weights.
"""

import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage

import moco
from moco.data.images import Images

IMAGES, FAULTS, SEED = 5000, 50, 0
KINDS = ("noise", "constant", "inverted", "blocks", "blurred")


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


def plant(images: Images, folder: Path) -> tuple[dict[str, str], set[str]]:
    """Write images with faults as class folders; the corrupted with their kinds, and the mislabelled, by path."""
    order = np.random.default_rng(SEED)
    random = torch.Generator().manual_seed(SEED)
    rows = order.permutation(len(images))[:IMAGES]
    bad = order.permutation(IMAGES)[: 2 * FAULTS]
    assert images.labels is not None
    corrupted, mislabelled = dict[str, str](), set[str]()
    for name in images.classes:
        (folder / name).mkdir(parents=True)
    for place, row in enumerate(rows.tolist()):
        image, label = images[row], int(images.labels[row])
        kind = int(np.flatnonzero(bad == place)[0]) % len(KINDS) if place in bad[:FAULTS] else None
        if kind is not None:
            image = corrupt(image, kind, random)
        if place in bad[FAULTS:]:
            label = (label + int(order.integers(1, len(images.classes)))) % len(images.classes)
        path = f"{images.classes[label]}/{place}.png"
        PillowImage.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / path)
        if kind is not None:
            corrupted[path] = KINDS[kind]
        if place in bad[FAULTS:]:
            mislabelled.add(path)
    return corrupted, mislabelled


def main() -> None:
    """Plant, list, count."""
    weights, data, *more = sys.argv[1:]
    sized = {"image_size": int(more[0])} if more else {}
    with tempfile.TemporaryDirectory() as folder:
        corrupted, mislabelled = plant(moco.load(data)["test"], Path(folder) / "images")
        with contextlib.redirect_stdout(sys.stderr):
            found = moco.run(
                "outliers", weights=weights, data=f"{folder}/images", top=FAULTS, threads=1, workers=0, **sized
            )
    figures = {}
    for name, own in {"encoder": found, **found["baselines"]}.items():
        kinds = Counter(corrupted.get(one["path"]) for one in own["images"])
        figures[name] = {
            "kinds": {kind: kinds[kind] / (FAULTS // len(KINDS)) for kind in KINDS},
            "images": sum(one["path"] in corrupted for one in own["images"]) / FAULTS,
            "labels": sum(one["path"] in mislabelled for one in own["labels"]) / FAULTS,
        }
    print(json.dumps({"images": IMAGES, "precision_at_50": figures, "by_chance": FAULTS / IMAGES}))


if __name__ == "__main__":
    main()
