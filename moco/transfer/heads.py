"""What a detector does with each region: box and mask branch, of C4 and of FPN."""

import copy

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss

from moco.core.encoder import Encoder
from moco.transfer.backbones import resnet_of

Targets = list[dict[str, Tensor]]


class Conv5(nn.Module):
    """The C4 box head: conv5 on every region, followed by an extra BN (v1, Table 2)."""

    def __init__(self, encoder: Encoder, *, frozen: bool = False) -> None:
        super().__init__()
        resnet = resnet_of(encoder)
        self.layer4 = copy.deepcopy(resnet.layer4).requires_grad_(not frozen)
        self.frozen = frozen
        self.channels = resnet.num_features
        self.norm = nn.BatchNorm2d(self.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Regions (n, C4, 14, 14) -> (n, C5, 7, 7)."""
        features: Tensor = self.norm(self.layer4(x))
        return features

    def train(self, mode: bool = True) -> "Conv5":
        """Train all but a frozen conv5."""
        super().train(mode)
        self.layer4.train(mode and not self.frozen)
        return self


def find_outlined(labels: list[Tensor], matched: list[Tensor], targets: Targets) -> list[Tensor]:
    """Find the regions (n,) of each image whose object has an outline: nothing but zeros is not true of any object."""
    columns = zip(labels, matched, targets, strict=True)
    return [
        (label > 0) & (target["masks"].flatten(1).amax(1) > 0)[rows] if len(target["masks"]) else label > 0
        for label, rows, target in columns
    ]


def outline_loss(
    logits: Tensor, found: list[Tensor], proposals: list[Tensor], matched: list[Tensor], targets: Targets
) -> Tensor:
    """Return the loss of the masks (n, classes, H, W) that were predicted for the regions `found`."""
    boxes, rows = ([part[of] for part, of in zip(parts, found, strict=True)] for parts in (proposals, matched))
    masks, classes = ([target[name] for target in targets] for name in ("masks", "labels"))
    loss: Tensor = maskrcnn_loss(logits, boxes, masks, classes, rows)
    return loss


class OutlinedHeads(RoIHeads):
    """Box and mask branch of FPN; torchvision's would also learn from the masks of objects without an outline."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return losses in training, detections in evaluation."""
        if not self.training:
            found: list[dict[str, Tensor]] = super().forward(features, proposals, image_shapes)[0]
            return found, {}
        assert targets is not None
        proposals, matched, labels, corrections = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        box_losses = fastrcnn_loss(logits, deltas, labels, corrections)
        losses = dict(zip(("loss_classifier", "loss_box_reg"), box_losses, strict=True))
        outlined = find_outlined(labels, matched, targets)
        regions = [boxes[of] for boxes, of in zip(proposals, outlined, strict=True)]
        pooled = self.mask_roi_pool(features, regions, image_shapes)
        losses["loss_mask"] = outline_loss(
            self.mask_predictor(self.mask_head(pooled)), outlined, proposals, matched, targets
        )
        return [], losses


class Conv5Heads(RoIHeads):
    """Box and mask branch of C4, which share what conv5 gives of a region; torchvision's would go through it twice."""

    def __init__(
        self, pool: nn.Module, conv5: Conv5, box_predictor: nn.Module, *limits: object, mask_predictor: nn.Module | None
    ) -> None:
        super().__init__(pool, conv5, box_predictor, *limits)
        self.mask_predictor = mask_predictor

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return losses in training, detections in evaluation."""
        if self.training:
            proposals, matched, labels, corrections = self.select_training_samples(proposals, targets)
        regions = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(regions)
        if not self.training:
            return self._detections(features, logits, deltas, proposals, image_shapes), {}
        box_losses = fastrcnn_loss(logits, deltas, labels, corrections)
        losses = dict(zip(("loss_classifier", "loss_box_reg"), box_losses, strict=True))
        if self.mask_predictor is not None:
            assert targets is not None
            found = find_outlined(labels, matched, targets)
            logits = self.mask_predictor(regions[torch.cat(found)])
            losses["loss_mask"] = outline_loss(logits, found, proposals, matched, targets)
        return [], losses

    def _detections(
        self,
        features: dict[str, Tensor],
        logits: Tensor,
        deltas: Tensor,
        proposals: list[Tensor],
        shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, shapes)
        columns = zip(boxes, scores, labels, strict=True)
        found = [{"boxes": box, "scores": score, "labels": label} for box, score, label in columns]
        if self.mask_predictor is not None:
            regions = self.box_head(self.box_roi_pool(features, boxes, shapes))
            masks = maskrcnn_inference(self.mask_predictor(regions), labels)
            found = [{**one, "masks": mask} for one, mask in zip(found, masks, strict=True)]
        return found
