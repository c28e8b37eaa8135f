"""Views of annotated images for training; everything drawn comes from the generator that is given."""

import math

import torch
from torch.nn.functional import interpolate
from torchvision.transforms.functional import hflip
from torchvision.transforms.functional import resize as resize_pixels

from moco.errors import BadInputError
from moco.shapes import Image
from moco.transfer.targets import VOID, LabelMap, Objects, Skeleton, empty_masks

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean, which fills what lies beyond an image's edge."""


def resize(image: Image, target: Objects, shorter: int, longest: int) -> tuple[Image, Objects]:
    """Resize to a shorter side of `shorter`, or less where the longer one would pass `longest`.

    Boxes are cut at the image's edge; masks take the nearest pixel.
    """
    height, width = image.shape[1:]
    factor = min(shorter / min(height, width), longest / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    by_x, by_y = size[1] / width, size[0] / height
    resized = dict(target)
    boxes = target["boxes"] * torch.tensor([by_x, by_y, by_x, by_y])
    resized["boxes"] = boxes.clamp(min=torch.zeros(4), max=torch.tensor([*size[::-1], *size[::-1]]))
    resized["area"] = target["area"] * (by_x * by_y)
    if "masks" in target:
        masks = target["masks"]
        resized["masks"] = interpolate(masks[None], size, mode="nearest-exact")[0] if len(masks) else empty_masks(*size)
    if "keypoints" in target:
        resized["keypoints"] = target["keypoints"] * torch.tensor([by_x, by_y, 1.0])
    return resize_pixels(image, list(size), antialias=True), resized


def flip(image: Image, target: Objects, skeleton: Skeleton | None = None) -> tuple[Image, Objects]:
    """Mirror left and right; keypoints change names with their partners.

    Raises BadInputError where there are keypoints and no skeleton.
    """
    width = image.shape[2]
    mirrored = dict(target)
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    mirrored["boxes"] = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(2)
    if "keypoints" in target:
        if skeleton is None:
            raise BadInputError("keypoints were to be mirrored without their names, expected a skeleton")
        x, y, visible = target["keypoints"].unbind(2)
        keypoints = torch.stack([torch.where(visible > 0, width - x, x), y, visible], dim=2)
        order = list(range(len(skeleton.names)))
        for left, right in skeleton.pairs:
            order[left], order[right] = right, left
        mirrored["keypoints"] = keypoints[:, order]
    return hflip(image), mirrored


def detection_view(
    image: Image,
    target: Objects,
    shorter: tuple[int, int],
    longest: int,
    generator: torch.Generator,
    skeleton: Skeleton | None = None,
    mirrored: float = 0.5,
) -> tuple[Image, Objects]:
    """Draw a shorter side from a range, ends included; `mirrored` is the share of views that are mirrored."""
    side = int(torch.randint(shorter[0], shorter[1] + 1, (), generator=generator))
    mirror = _coin(generator, mirrored)
    image, target = resize(image, target, side, longest)
    return flip(image, target, skeleton) if mirror else (image, target)


def semantic_view(
    image: Image,
    labels: LabelMap,
    crop: int,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.5, 2.0),
    mirrored: float = 0.5,
) -> tuple[Image, LabelMap]:
    """Draw a scale from a range, and a square of `crop` pixels in the result; `mirrored` is the mirrored share.

    Where the scaled image is smaller than the square, the rest is the mean colour, and VOID.
    """
    factor = scale[0] + (scale[1] - scale[0]) * float(torch.rand((), generator=generator))
    across, down = torch.rand(2, generator=generator).tolist()
    mirror = _coin(generator, mirrored)
    size = [max(1, round(side * factor)) for side in image.shape[1:]]
    image = resize_pixels(image, size, antialias=True)
    labels = interpolate(labels[None, None].to(torch.uint8), size, mode="nearest-exact")[0, 0].long()
    top, left = (math.floor(draw * (max(side - crop, 0) + 1)) for draw, side in zip((down, across), size, strict=True))
    image, labels = image[:, top : top + crop, left : left + crop], labels[top : top + crop, left : left + crop]
    height, width = labels.shape
    pixels = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, crop, crop)
    pixels[:, :height, :width] = image
    padded = torch.full((crop, crop), VOID)
    padded[:height, :width] = labels
    return (pixels.flip(2), padded.flip(1)) if mirror else (pixels, padded)


def _coin(generator: torch.Generator, share: float) -> bool:
    return bool(torch.rand((), generator=generator) < share)
