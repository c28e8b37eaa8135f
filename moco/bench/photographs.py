"""Real photographs to measure with: scikit-learn's two samples, cut and resized."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage
from sklearn.datasets import load_sample_images

from moco.bench.cases import JPEGS, PATCHES
from moco.bench.config import BenchConfig
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images
from moco.runtime.device import resolve_device

PATCH_COUNT, PATCH_SIZE = 8192, 32
JPEG_COUNT, JPEG_COUNT_ON_GPU, JPEG_SIZE, JPEG_QUALITY = 64, 512, (500, 375), 90
"""The width and height of most of ImageNet's photographs."""


def write_photographs(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Write patches and JPEG files into the folder, by `config.seed`."""
    rng = np.random.default_rng(config.seed)
    np.save(folder / PATCHES, patches(rng, PATCH_COUNT))
    count = JPEG_COUNT_ON_GPU if resolve_device(config.device) == "cuda" else JPEG_COUNT
    write_jpegs(folder / JPEGS, rng, count)
    return {"patches": PATCH_COUNT, "jpegs": count}


def patches(rng: np.random.Generator, count: int) -> npt.NDArray[np.uint8]:
    """Cut `count` windows of 24 to 96 pixels from the photographs, resized to 32 x 32: (count, 32, 32, 3)."""
    photographs = _photographs()
    cut = (_window(rng, photographs, int(rng.integers(24, 97)), 1.0) for _ in range(count))
    return np.stack([np.asarray(window.resize((PATCH_SIZE, PATCH_SIZE))) for window in cut])


def write_jpegs(folder: Path, rng: np.random.Generator, count: int, size: tuple[int, int] = JPEG_SIZE) -> None:
    """Write `count` windows of the photographs as JPEG files of that width and height into the folder."""
    photographs, (width, height) = _photographs(), size
    folder.mkdir(parents=True)
    for number in range(count):
        window = _window(rng, photographs, int(rng.integers(300, 427)), width / height)
        window.resize(size).save(folder / f"{number:04}.jpg", quality=JPEG_QUALITY)


def images_in(folder: Path, size: int) -> Images:
    """Open the images of `write_photographs`: patches in memory; for larger sizes JPEG files, decoded on demand."""
    if size > PATCH_SIZE:
        return load(str(folder / JPEGS))["train"]
    pixels = torch.from_numpy(np.load(folder / PATCHES))
    return ArrayImages(pixels.permute(0, 3, 1, 2).contiguous())


def _photographs() -> list[PillowImage.Image]:
    return [PillowImage.fromarray(pixels) for pixels in load_sample_images().images]


def _window(
    rng: np.random.Generator, photographs: list[PillowImage.Image], height: int, ratio: float
) -> PillowImage.Image:
    """A window of that height and ratio of width to height, anywhere in any of the photographs."""
    photograph, width = photographs[rng.integers(len(photographs))], round(height * ratio)
    left, top = (int(rng.integers(room + 1)) for room in (photograph.width - width, photograph.height - height))
    return photograph.crop((left, top, left + width, top + height))
