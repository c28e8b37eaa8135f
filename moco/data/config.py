"""Settings that concern images alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PackConfig:
    """Pack images into memory-mapped arrays or tar shards with an index, which load faster than many files."""

    data: str
    """Images, as for pretrain; all their splits are packed, in their order."""
    out: Path
    """New folder for the pack, which is then given as --data."""
    format: Literal["auto", "arrays", "shards"] = "auto"
    """arrays: decoded pixels, for small images of one size; shards: the files as they are, in tar files in WebDataset
    layout; auto: arrays where the images are of one size up to 96 pixels, else shards."""
    image_size: int | None = None
    """Side of the images in pixels: for arrays, to which each image's shorter side is brought; the centre is kept."""
    shard_bytes: int = 1 << 28
    """Size at which a new shard is begun."""
    json: bool = False
    """End with one JSON object on standard output."""
