"""Measures images without an encoder: what their bytes and pixels are, how large, sharp, varied and colourful."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.shapes import Image

DIGEST = 16
"""Bytes of a SHA-256 that are kept: two different images share these with a chance of 2^-128."""
LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
GREY = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
"""The shares of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Facts:
    """Measurements of N images, one row each."""

    content: npt.NDArray[np.uint8]
    """(N, 16): the digest of the file; zeros without one."""
    pixels: npt.NDArray[np.uint8]
    """(N, 16): the digest of the decoded pixels and their size."""
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    file_bytes: npt.NDArray[np.int64]
    """(N,): 0 where there is no file."""
    sharpness: npt.NDArray[np.float32]
    """(N,): the variance of the brightness's Laplacian."""
    contrast: npt.NDArray[np.float32]
    """(N,): the standard deviation of the brightness, which is 0 to 1."""
    colour: npt.NDArray[np.float32]
    """(N,): the mean difference between the largest and the smallest of the three colours, which are 0 to 1."""

    def __len__(self) -> int:
        return len(self.height)

    def take(self, rows: npt.NDArray[np.int64]) -> "Facts":
        """Take the facts of some images."""
        return Facts(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the columns by name."""
        return {field.name: torch.from_numpy(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Facts":
        """Make facts of the columns."""
        return cls(**{field.name: tensors[field.name].numpy() for field in dataclasses.fields(cls)})

    @classmethod
    def stack(cls, parts: Sequence["Facts"]) -> "Facts":
        """Put the rows of several behind each other."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def measure_image(image: Image, content: bytes | None) -> Facts:
    """Measure one image (3, H, W), whose file is `content`: facts of one row."""
    height, width = image.shape[1:]
    grey = (image.float() / 255 * GREY).sum(0)
    edges = F.conv2d(grey[None, None], LAPLACIAN) if min(height, width) > 2 else torch.zeros(1)
    colour = (image.amax(0).float() - image.amin(0).float()).mean() / 255
    plain = np.ascontiguousarray(image.numpy())
    pixels = hashlib.sha256(f"{height} {width} ".encode() + plain.tobytes())
    return Facts(
        _digest(b"\0" * DIGEST if content is None else hashlib.sha256(content).digest()), _digest(pixels.digest()),
        np.array([height]), np.array([width]), np.array([len(content or b"")]),
        *(np.array([float(value)], np.float32) for value in (edges.var(correction=0), grey.std(correction=0), colour)),
    )  # fmt: skip


def blank_facts() -> Facts:
    """Return the row of an image that cannot be read."""
    none, zero = np.zeros((1, DIGEST), np.uint8), np.zeros(1, np.int64)
    return Facts(none, none, zero, zero, zero, *(np.zeros(1, np.float32) for _ in range(3)))


def _digest(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content[:DIGEST], np.uint8)[None].copy()
