"""What cases read: made once, for both trees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.same.cases import DIGITS
from tests.transfer import scenes

PHOTOS = 200
DAMAGED = 7
"""The file of `damaged` that no decoder can read."""
Moco = Callable[[str], None]
"""Runs a command of the older tree in the folder of the inputs."""


def write_photos(folder: Path) -> None:
    """Smooth random JPEGs of several sizes; a fixed seed."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(PHOTOS):
        coarse = random.integers(0, 256, (4, 5, 3), np.uint8)
        size = tuple(int(side) for side in random.integers(24, 72, 2))
        Image.fromarray(coarse).resize((size[0], size[1]), Image.Resampling.BICUBIC).save(photo(folder, number))


def photo(folder: Path, number: int) -> Path:
    """The path of a photo."""
    return folder / f"{number:03d}.jpg"


def damaged(folder: Path, _: Moco) -> None:
    """The photos, of which one ends after its header."""
    write_photos(folder)
    path = photo(folder, DAMAGED)
    path.write_bytes(path.read_bytes()[:64])


def shards(folder: Path, moco: Moco) -> None:
    """The photos as tar shards."""
    loose = folder.with_name("loose")
    write_photos(loose)
    moco(f"pack --data {loose.name} --out {folder.name} --format shards")


def encoder(folder: Path, moco: Moco) -> None:
    """A run whose weights are evaluated and transferred."""
    moco(f"pretrain quick --dictionary queue {DIGITS} --out {folder.name}")


MAKERS: dict[str, Callable[[Path, Moco], object]] = {
    "photos": lambda folder, _: write_photos(folder),
    "damaged": damaged,
    "shards": shards,
    "encoder": encoder,
    "voc": lambda folder, _: scenes.write("voc", folder, 4, (96, 64)),
    "voc-semantic": lambda folder, _: scenes.write("voc-semantic", folder, 4, (96, 64)),
}
