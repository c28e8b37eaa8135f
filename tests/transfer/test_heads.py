"""Objects without an outline take no part in the loss of masks."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from moco.core.encoder import Encoder, EncoderPlan
from moco.transfer.detectors import DetectorPlan, Features, build_detector
from moco.transfer.heads import OutlinedHeads, Targets, find_outlined


def losses(features: Features, targets: Targets) -> dict[str, Tensor]:
    """What a small detector loses on two images of noise."""
    torch.manual_seed(3)
    plan = DetectorPlan(features, "mask", 2, channels=8, test_size=32, longest_side=48, regions=16)
    detector = build_detector(Encoder(EncoderPlan("resnet18-w8", feature_dim=8)), plan).train()
    torch.manual_seed(4)
    found: dict[str, Tensor] = detector(list(torch.rand(2, 3, 32, 32)), targets)
    return {name: value.detach() for name, value in found.items()}


def objects() -> Targets:
    """Two objects in each image, with rectangles for masks."""
    boxes = torch.tensor([[2.0, 2, 20, 20], [10, 8, 30, 30]])
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, 2:20, 2:20] = masks[1, 8:30, 10:30] = 1
    return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks.clone()} for _ in range(2)]


def test_with_outlines_the_losses_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit."""
    ours = losses("fpn", objects())
    monkeypatch.setattr(OutlinedHeads, "forward", RoIHeads.forward)
    theirs = losses("fpn", objects())
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == set()


@pytest.mark.parametrize("features", ["fpn", "c4"])
def test_nothing_is_learned_from_empty_masks(features: Features) -> None:
    """Where no object has an outline the loss of masks is 0, and all others are as before."""
    whole, empty = objects(), objects()
    for target in empty:
        target["masks"].zero_()
    before, now = losses(features, whole), losses(features, empty)
    assert float(now["loss_mask"]) == 0
    assert float(before["loss_mask"]) > 0
    boxes = {name: value for name, value in now.items() if name != "loss_mask"}
    assert all(torch.equal(value, before[name]) for name, value in boxes.items())


def test_regions_of_objects_with_an_outline() -> None:
    """Neither background (label 0) nor what matched an object without a mask; an image may have no object."""
    masks = torch.tensor([[[0, 0]], [[0, 1]]], dtype=torch.uint8)
    targets = [{"masks": masks}, {"masks": masks[:0]}]
    labels, matched = [torch.tensor([1, 0, 2]), torch.tensor([0])], [torch.tensor([0, 1, 1]), torch.tensor([0])]
    found = find_outlined(labels, matched, targets)
    assert [one.tolist() for one in found] == [[False, False, True], [False]]
