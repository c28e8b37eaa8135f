"""A frozen encoder and images -> features."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.encoder import Encoder, Output
from moco.data.augment import normalize
from moco.data.images import Images
from moco.runtime.device import Precision, autocast
from moco.runtime.distributed import gather, rank, world_size
from moco.shapes import Features, Image, Square

CROP_SHARE = 0.875
"""Images are resized to size / 0.875 and their centre is cut out (256 and 224 in the papers) ..."""
SMALL = 64
"""... but for sizes up to this, where the whole image is resized."""


@dataclass(frozen=True)
class Encoding:
    """How images are brought to an encoder and what is read off."""

    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    output: Output = "backbone"
    batch_size: int = 256
    precision: Precision = "fp32"


@torch.no_grad()
def encode(encoder: Encoder, images: Images, how: Encoding) -> Features:
    """The features of all images, of unit length, in fp32 on the CPU; the encoder is left in the mode it was in.

    Several ranks share the images out, and each gets all the features.
    """
    device = next(encoder.parameters()).device
    module: nn.Module = encoder if how.output == "head" else encoder.backbone
    own = math.ceil(len(images) / world_size())  # images of this rank, the last ranks perhaps fewer
    first, last = (min(place * own, len(images)) for place in (rank(), rank() + 1))
    features = []
    with evaluating(encoder):
        for start in range(first, last, how.batch_size):
            rows = range(start, min(start + how.batch_size, last))
            batch = torch.stack([prepare(images[row], how.image_size) for row in rows])
            views = normalize(batch.to(device), how.mean, how.std)
            with autocast(how.precision, device.type):
                features.append(F.normalize(module(views).float()).cpu())
    if world_size() == 1:
        return torch.cat(features)
    padded = torch.zeros(own, encoder.width(how.output), device=device)
    if features:
        padded[: last - first] = torch.cat(features)
    return gather(padded)[: len(images)].cpu()


def prepare(image: Image, size: int) -> Square:
    """Resize the shorter side to size / 0.875 and cut the centre, or resize the whole to a small size; in [0, 1]."""
    pixels = image[None].float() / 255
    if size <= SMALL:
        return pixels[0] if pixels.shape[2:] == (size, size) else _resize(pixels, size, size)[0]
    height, width = image.shape[1:]
    short = round(size / CROP_SHARE)
    rows, columns = (int(short * side / min(height, width)) for side in (height, width))
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return _resize(pixels, rows, columns)[0, :, top : top + size, left : left + size]


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, (height, width), mode="bilinear", antialias=True, align_corners=False)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """With running statistics and without dropout, as long as it lasts."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
