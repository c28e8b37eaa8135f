"""Several encoders side by side: one backbone that gives the features of all, each of unit length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.maps import FINEST, count_numbers, encode_over
from moco.core.networks import build_backbone, reads_bytes
from moco.core.precision import at_least_fp32
from moco.core.stems import Stem
from moco.errors import BadInputError, one_line
from moco.shapes import Features, Views

JOINED = "joined"
"""The `arch` of an encoder of several parts."""
MOST_PARTS = 8
LARGEST = 1 << 14
"""Largest side of images."""
MOST_KEPT = 1 << 16
"""Most numbers that a whitening gives."""


@dataclass(frozen=True)
class Part:
    """The settings of one of the networks that are side by side."""

    arch: str
    stem: Stem
    image_size: int
    """Side of the images that it was built for."""
    side: int
    """Side to which it resizes the images that it gets."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitens: bool = False
    """Its features are whitened before they are scaled to unit length."""
    grids: tuple[int, ...] = (1,)
    """Over how many cells in a row its map is averaged; 1: over the whole. More than one only while joining chooses."""
    numbers: int | None = None
    """Numbers that the whitening gives; None: as many as it gets."""

    def __post_init__(self) -> None:
        """Raise BadInputError for a value that no network has: parts may come from a file."""
        if not isinstance(self.arch, str) or self.arch == JOINED or reads_bytes(self.arch):
            raise BadInputError(f"a part cannot be {str(self.arch)[:40]!r}: expected a network that takes images")
        if self.stem not in get_args(Stem) or type(self.whitens) is not bool:
            raise BadInputError(f"a part has stem {str(self.stem)[:20]!r} and whitens {str(self.whitens)[:20]!r}")
        cells = all(type(k) is int and 0 < k <= FINEST for k in self.grids) and 0 < len(self.grids) <= FINEST
        if not cells or not (self.numbers is None or (type(self.numbers) is int and 0 < self.numbers <= MOST_KEPT)):
            raise BadInputError(f"a part has grids {str(self.grids)[:20]} and numbers {str(self.numbers)[:20]}")
        if not all(type(size) is int and 0 < size <= LARGEST for size in (self.image_size, self.side)):
            raise BadInputError(f"a part takes images of {str(self.side)[:20]} pixels: expected 1 to {LARGEST}")
        numbers = (*self.mean, *self.std)
        known = len(self.mean) == len(self.std) > 0 and all(type(number) in (int, float) for number in numbers)
        if not known or not all(map(math.isfinite, numbers)) or min(self.std) <= 0:
            raise BadInputError("mean and std of a part: expected finite numbers, and of std more than 0")


def read_parts(values: object) -> tuple[Part, ...]:
    """Return the parts that a file describes, as JSON has them. Raises BadInputError where it describes none."""
    if not isinstance(values, list) or len(values) > MOST_PARTS:
        raise BadInputError(f"parts: expected a list of at most {MOST_PARTS}")
    try:
        listed = ("mean", "std", "grids")
        return tuple(
            Part(**{**value, **{name: tuple(value[name]) for name in listed if name in value}}) for value in values
        )
    except (TypeError, KeyError) as error:
        raise BadInputError(f"a part does not describe a network ({one_line(error)})") from error


class JoinedBackbone(nn.Module):
    """Images (N, channels, S, S) in [0, 1] -> the unit vectors of each part, one behind the other (N, C_1 + C_2 + ...).

    The cosine similarity of two images is the mean of their similarities by the parts.
    """

    def __init__(self, parts: Sequence[Part], image_size: int, channels: int) -> None:
        super().__init__()
        networks, self.widths = list[nn.Module](), list[int]()
        for part in parts:
            if len(part.mean) != channels:
                raise BadInputError(f"a part takes images of {len(part.mean)} channels: expected {channels}")
            network, width = build_backbone(part.arch, part.stem, part.image_size, channels)
            networks.append(_Resized(network, part, image_size))
            self.widths.append(count_numbers(width, part.grids))
        self.parts = nn.ModuleList(networks)
        self.whitening = nn.ModuleList(
            nn.Linear(width, part.numbers or width) if part.whitens else nn.Identity()
            for part, width in zip(parts, self.widths, strict=True)
        )
        self.num_features = sum(
            (part.numbers if part.whitens else None) or width for part, width in zip(parts, self.widths, strict=True)
        )

    def forward(self, x: Views) -> Features:
        """Encode the images by every part."""
        return self.combine(self.plain(x))

    def combine(self, zs: Sequence[Tensor]) -> Features:
        """Whiten the features (N, C_i) of each part as it was chosen, and put the unit vectors behind each other."""
        with torch.autocast(zs[0].device.type, enabled=False):
            return torch.cat([F.normalize(whiten(z)) for whiten, z in zip(self.whitening, zs, strict=True)], 1)

    def plain(self, x: Views) -> list[Tensor]:
        """Return the features (N, C_i) of each part, over its grids, of any length and not whitened."""
        return [at_least_fp32(part(x)) for part in self.parts]


def whitens_parts(encoder: nn.Module) -> bool:
    """Tell whether an encoder joins others, of which one at least is whitened by itself."""
    backbone = getattr(encoder, "backbone", None)
    return isinstance(backbone, JoinedBackbone) and any(isinstance(one, nn.Linear) for one in backbone.whitening)


class PlainParts(nn.Module):
    """Images -> the plain features of all parts of a backbone, one behind the other."""

    def __init__(self, backbone: JoinedBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Views) -> Features:
        """Encode the images by every part."""
        return torch.cat(self.backbone.plain(x), 1)


class _Resized(nn.Module):
    """A network behind the preparation of its images: it resizes them (N, channels, S, S) and normalises them."""

    def __init__(self, network: nn.Module, part: Part, image_size: int) -> None:
        super().__init__()
        self.network, self.side, self.grids = network, part.side, part.grids
        for name, values in (("mean", part.mean), ("std", part.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("resize", resize_matrix(image_size, part.side), persistent=False)

    def forward(self, x: Views) -> Features:
        own = self.get_buffer("resize")
        rows, columns = (own if own.shape[1] == n else resize_matrix(n, self.side).to(x.device) for n in x.shape[2:])
        with torch.autocast(x.device.type, enabled=False):  # bytes of images have more digits than bf16
            y = x.float()
            if (self.side, self.side) != y.shape[2:]:
                y = rows @ y @ columns.T
            y = (y - self.get_buffer("mean")) / self.get_buffer("std")
        return encode_over(self.network, y.contiguous(memory_format=torch.channels_last), self.grids)


def resize_matrix(source: int, target: int) -> Tensor:
    """Return the matrix (target, source) that resizes a line as bilinear interpolation with antialiasing does.

    Images are resized by its products with their columns and rows, which every format for exported networks has.
    """
    line = torch.eye(source)[None, None]
    return F.interpolate(line, (target, source), mode="bilinear", antialias=True, align_corners=False)[0, 0]
