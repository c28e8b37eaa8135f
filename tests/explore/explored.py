"""A collection made by hand for the explorer: coloured squares, features drawn at random, names of any kind."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from moco.errors import BadInputError
from moco.explore.embedding import Collection, Embedding

WIDTH = 16


def features(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors (N, 16)."""
    drawn = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 8)) -> bytes:
    """An image file of one colour."""
    out = io.BytesIO()
    PillowImage.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def thumbnail(row: int) -> bytes:
    """A WebP picture whose colour tells the number; the last but one cannot be read."""
    out = io.BytesIO()
    PillowImage.new("RGB", (8, 8), (row % 256, 90, 90)).save(out, "WEBP", lossless=True)
    return out.getvalue()


def collection(
    count: int = 60, classes: Sequence[str] | None = ("cat", "dog", "<b>ox</b>"), names: Sequence[str] = ("a.png",)
) -> Collection:
    """Names and classes come in turn; a dropped image has the features of the image that its red value numbers."""

    def encode(content: bytes) -> list[npt.NDArray[np.float32]]:
        try:
            red = np.asarray(PillowImage.open(io.BytesIO(content)).convert("RGB"))[0, 0, 0]
        except OSError as error:
            raise BadInputError("the dropped image: cannot be read as an image") from error
        return [features(count, seed)[int(red) % count] for seed in (0, 1)]

    labels = None if classes is None else np.arange(count) % len(classes)
    paths = [f"{row}/{names[row % len(names)]}" for row in range(count)]
    return Collection("photos", paths, labels, tuple(classes or ()), 32, thumbnail, encode)


def embedding(count: int = 60, seed: int = 0, name: str = "run") -> Embedding:
    """Places on a spiral."""
    turn = np.arange(count, dtype=np.float32)
    radius = 0.5 * np.sqrt((turn + 1) / count)
    places = 0.5 + radius[:, None] * np.stack([np.cos(turn * 2.4), np.sin(turn * 2.4)], 1)
    return Embedding(name, features(count, seed), places.astype(np.float32), np.arange(count) % 4, "a spiral")
