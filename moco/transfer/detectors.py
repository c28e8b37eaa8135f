"""Faster, Mask and Keypoint R-CNN on an encoder's ResNet, from torchvision's parts (v1, 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, misc
from torchvision.ops.poolers import initLevelMapper

from moco.core.encoder import Encoder
from moco.core.precision import at_least_fp32
from moco.transfer.backbones import STAGES, Body, Level, OneMap, Pyramid, SparseBatchNorm, levels_of
from moco.transfer.heads import Conv5, Conv5Heads, OutlinedHeads

Features = Literal["c4", "dc5", "fpn"]
Heads = Literal["box", "mask", "keypoints"]
ANCHORS = (32.0, 64.0, 128.0, 256.0, 512.0)
"""Sides of the anchors where the shorter side of an image is the benchmark's."""
REFERENCE = 800
"""Pixels of that side; Cityscapes has 1024, and the same anchors."""
CANONICAL = 224
"""Side of the boxes that FPN (Eq. 1) takes from the third of its maps, at the same size."""


@dataclass(frozen=True)
class DetectorPlan:
    """What is needed to build a detector, beside its encoder."""

    features: Features
    heads: Heads
    classes: int
    """The number of classes without background."""
    keypoints: int = 0
    channels: int = 256
    """Channels of the FPN and the mask head; the fully connected box head has four times as many, DC5's neck twice."""
    anchor_sizes: tuple[float, ...] | None = None
    """In pixels of the resized image; by default those of the papers, in proportion to `test_size`."""
    test_size: int = REFERENCE
    longest_side: int = 1333
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    detections: int = 100
    score_threshold: float = 0.05
    regions: int = 512
    """Regions of an image that the heads are trained on in a step."""
    frozen: int = 0
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    nms_threshold: float = 0.5
    """Overlap above which the weaker of two detections is dropped; for proposals it is 0.7."""
    reference: int = REFERENCE
    """The benchmark's own `test_size` at which the anchors have the papers' sizes."""

    @property
    def scale(self) -> float:
        """Compute how large images are, in units of the benchmark's."""
        return self.test_size / self.reference


def build_detector(encoder: Encoder, plan: DetectorPlan) -> GeneralizedRCNN:
    """Build a detector whose body is a copy of the encoder's ResNet.

    It takes images (3, h, w) in [0, 1] and, in training, targets as torchvision's; it gives a loss for each part, or
    detections in pixels of the images it was given. Raises BadInputError where the encoder is no ResNet.
    """
    backbone = _backbone(encoder, plan)
    levels = levels_of(backbone)
    sizes = plan.anchor_sizes or tuple(size * plan.scale for size in ANCHORS)
    rpn = _proposals(plan, levels, sizes)
    stride = max(level.stride for level in levels_of(backbone.body).values())
    transform = EvaluationResize(
        plan.test_size, plan.longest_side, list(plan.mean), list(plan.std), size_divisible=max(32, stride)
    )
    heads = _roi_heads(encoder, plan, levels)
    for predictor in (rpn.head, heads.box_predictor, heads.mask_predictor, heads.keypoint_predictor):
        if isinstance(predictor, nn.Module):
            predictor.register_forward_hook(_predict_in_fp32)
    return GeneralizedRCNN(backbone, rpn, heads, transform)


def _predict_in_fp32(module: nn.Module, inputs: object, predicted: Any) -> Any:
    """Bring what a module predicts, a tensor or some in lists, to fp32.

    torchvision decodes boxes in the format of their corrections, and bf16 moves them by up to 13 pixels of 1333.
    """
    if isinstance(predicted, Tensor):
        return at_least_fp32(predicted)
    return [_predict_in_fp32(module, inputs, one) for one in predicted]


def _backbone(encoder: Encoder, plan: DetectorPlan) -> OneMap | Pyramid:
    if plan.features == "c4":
        return OneMap(Body(encoder, "layer3", frozen=plan.frozen))
    body = Body(encoder, dilated=plan.features == "dc5", frozen=plan.frozen)
    if plan.features == "fpn":
        return Pyramid(body, plan.channels)
    neck = misc.Conv2dNormActivation(levels_of(body)["layer4"].channels, 2 * plan.channels, 3)
    return OneMap(body, neck)


def _proposals(plan: DetectorPlan, levels: Mapping[str, Level], sizes: Sequence[float]) -> RegionProposalNetwork:
    """The RPN: one anchor size for each map of the pyramid, or all of them on the one map."""
    pyramid = plan.features == "fpn"
    groups = _spread(sizes, len(levels)) if pyramid else [tuple(sizes)]
    strides = [level.stride for level in levels.values()]
    anchors = StridedAnchors(groups, [plan.anchor_ratios] * len(groups), strides)
    channels = next(iter(levels.values())).channels
    head = RPNHead(channels, anchors.num_anchors_per_location()[0])
    before = {"training": 2000, "testing": 1000} if pyramid else {"training": 12000, "testing": 6000}
    after = {"training": 1000 if pyramid else 2000, "testing": 1000}
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, before, after, 0.7)


def _spread(sizes: Sequence[float], maps: int) -> list[tuple[float, ...]]:
    """Sizes over maps, smallest first: as many on each, where that is possible."""
    count = -(-len(sizes) // maps)
    return [tuple(sizes[min(i * count, len(sizes) - count) :][:count]) for i in range(maps)]


def _roi_heads(encoder: Encoder, plan: DetectorPlan, levels: Mapping[str, Level]) -> RoIHeads:
    """The heads on regions: what they are pooled from, and what becomes of them."""
    mapped = {name: level for name, level in levels.items() if name != "pool"}
    classes, scale = plan.classes + 1, plan.scale
    if plan.features == "c4":
        conv5 = Conv5(encoder, frozen=plan.frozen >= len(STAGES))
        predictor = nn.Sequential(nn.AdaptiveAvgPool2d(1), _box_predictor(conv5.channels, classes))
        mask = MaskRCNNPredictor(conv5.channels, plan.channels, classes) if plan.heads == "mask" else None
        return Conv5Heads(region_pool(mapped, 14, scale), conv5, predictor, *_limits(plan), mask_predictor=mask)
    channels, hidden = next(iter(mapped.values())).channels, 4 * plan.channels
    heads = (OutlinedHeads if plan.heads == "mask" else RoIHeads)(
        region_pool(mapped, 7, scale), TwoMLPHead(channels * 7 * 7, hidden), _box_predictor(hidden, classes),
        *_limits(plan),
    )  # fmt: skip
    if plan.heads == "mask":
        heads.mask_roi_pool = region_pool(mapped, 14, scale)
        heads.mask_head = MaskRCNNHeads(channels, (plan.channels,) * 4, 1, SparseBatchNorm)
        heads.mask_predictor = MaskRCNNPredictor(plan.channels, plan.channels, classes)
    if plan.heads == "keypoints":
        width = 2 * plan.channels
        heads.keypoint_roi_pool = region_pool(mapped, 14, scale)
        heads.keypoint_head = MaskRCNNHeads(channels, (width,) * 8, 1, SparseBatchNorm)
        heads.keypoint_predictor = KeypointRCNNPredictor(width, plan.keypoints)
    return heads


def _limits(plan: DetectorPlan) -> tuple[float, float, int, float, None, float, float, int]:
    """List what RoIHeads takes: overlaps of fore- and background, regions, foreground share, coder, test limits."""
    return 0.5, 0.5, plan.regions, 0.25, None, plan.score_threshold, plan.nms_threshold, plan.detections


def _box_predictor(channels: int, classes: int) -> FastRCNNPredictor:
    """Scores and box corrections; small first weights, as Fast R-CNN's (arXiv:1504.08083, section 3.1)."""
    predictor = FastRCNNPredictor(channels, classes)
    for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return predictor


def region_pool(levels: Mapping[str, Level], size: int, scale: float) -> MultiScaleRoIAlign:
    """RoIAlign of regions to size x size, from the map that FPN (Eq. 1) gives their size; `scale` is that of images.

    Strides are given: torchvision's would guess them once, from whatever image comes first.
    """
    pool = MultiScaleRoIAlign(list(levels), size, 0 if len(levels) == 1 else 2)
    strides = [level.stride for level in levels.values()]
    pool.scales = [1 / stride for stride in strides]
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    pool.map_levels = initLevelMapper(first, last, canonical_scale=round(CANONICAL * scale), canonical_level=first + 2)
    return pool


class StridedAnchors(AnchorGenerator):
    """Anchors at the strides of the feature maps; torchvision's divides sizes, and at 800 pixels misses 64 by 3."""

    def __init__(
        self, sizes: Sequence[tuple[float, ...]], ratios: Sequence[tuple[float, ...]], strides: Sequence[int]
    ) -> None:
        super().__init__(tuple(sizes), tuple(ratios))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return for each image the anchors (n, 4) of all maps, one after the other."""
        grids = [list(x.shape[-2:]) for x in feature_maps]
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        steps = [[torch.full((), stride, device=device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors(grids, steps))
        return [anchors for _ in image_list.image_sizes]


class EvaluationResize(GeneralizedRCNNTransform):
    """Normalises and pads; resizes in evaluation only, with antialiasing as training views, and undoes that at the end.

    In training images come at their size: what is drawn for them is a function of the step (`views`).
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """In evaluation, the shorter side to `min_size`, or less where the longer would exceed `max_size`."""
        if self.training:
            return image, target
        height, width = image.shape[-2:]
        scale = min(self.min_size[-1] / min(height, width), self.max_size / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0], target
