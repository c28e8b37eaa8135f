"""An image with what is true of it, and the same with what was found, as the report shows them."""

import base64
import io
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

from moco.transfer.examples import Examples
from moco.transfer.targets import VOID

SIDE = 400
"""Longest side of a picture in pixels."""
QUALITY = 75
"""WebP's quality."""
FROM_SCORE = 0.5
"""Detections that score less are not drawn."""
COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990",
    "#dcbeff", "#9a6324",
)  # fmt: skip
"""Colours of the classes, in order and then from the beginning again; void pixels stay as they are."""


def draw_prediction(examples: Examples, index: int, prediction: Any) -> dict[str, Any]:
    """Draw `truth` and `found` on an image. Returns its name, and the two pictures as WebP in base64."""
    image, target = examples[index]
    if isinstance(target, Tensor):
        return {"truth": _encoded(_areas(image, target)), "found": _encoded(_areas(image, prediction.cpu()))}
    found = {name: value.cpu() for name, value in prediction.items()}
    kept = found["scores"] >= FROM_SCORE
    found = {name: value[kept] for name, value in found.items()}
    if "masks" in found:
        found["masks"] = found["masks"].squeeze(1) >= 0.5
    return {"truth": _encoded(_objects(image, target)), "found": _encoded(_objects(image, found))}


def _areas(image: Tensor, labels: Tensor) -> Tensor:
    classes = sorted({int(label) for label in torch.unique(labels)} - {VOID})
    masks = torch.stack([labels == label for label in classes]) if classes else torch.zeros(0, *labels.shape).bool()
    small, masks = _small(image), _small_masks(masks, image)
    colours: Any = [COLOURS[label % len(COLOURS)] for label in classes]
    return draw_segmentation_masks(small, masks, alpha=0.6, colors=colours) if classes else small


def _objects(image: Tensor, objects: dict[str, Any]) -> Tensor:
    """Boxes, masks where there are any, and the keypoints that are visible."""
    picture, factor = _small(image), _factor(image)
    labels, boxes = objects["labels"], objects["boxes"] * factor
    sized = (boxes[:, 2:] >= boxes[:, :2]).all(1)
    if not sized.any():
        return picture
    colours: Any = [COLOURS[(int(label) - 1) % len(COLOURS)] for label in labels[sized]]
    if "masks" in objects:
        masks = _small_masks(objects["masks"][sized].bool(), image)
        picture = draw_segmentation_masks(picture, masks, alpha=0.4, colors=colours)
    picture = draw_bounding_boxes(picture, boxes[sized], colors=colours, width=2)
    if "keypoints" in objects:
        points = objects["keypoints"][sized]
        picture = draw_keypoints(picture, points[..., :2] * factor, visibility=points[..., 2] > 0, colors="#ffff00")
    return picture


def _factor(image: Tensor) -> float:
    return min(1.0, SIDE / max(image.shape[1:]))


def _size(image: Tensor) -> list[int]:
    return [max(1, round(side * _factor(image))) for side in image.shape[1:]]


def _small(image: Tensor) -> Tensor:
    resized = F.interpolate(image[None].float(), _size(image), mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


def _small_masks(masks: Tensor, image: Tensor) -> Tensor:
    if not len(masks):
        return masks
    return F.interpolate(masks[None].to(torch.uint8), _size(image), mode="nearest-exact")[0].bool()


def _encoded(picture: Tensor) -> str:
    file = io.BytesIO()
    PillowImage.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "WEBP", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")
