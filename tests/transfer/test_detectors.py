"""Anchors and regions of the detectors, by the papers' formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan
from moco.transfer.backbones import Level
from moco.transfer.detectors import DetectorPlan, Features, Heads, StridedAnchors, build_detector, region_pool


def test_anchors_lie_at_the_strides() -> None:
    """Centres at whole strides, the area that of the size, by the formula of Faster R-CNN."""
    anchors = StridedAnchors([(32.0,)], [(0.5, 1.0, 2.0)], [16])
    from torchvision.models.detection.image_list import ImageList

    found = anchors(ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), [torch.zeros(1, 1, 4, 6)])[0]
    assert found.shape == (4 * 6 * 3, 4)
    centres = (found[:, :2] + found[:, 2:]) / 2
    expected = [(16 * column, 16 * row) for row in range(4) for column in range(6) for _ in range(3)]
    torch.testing.assert_close(centres, torch.tensor(expected).float())
    areas = (found[:, 2:] - found[:, :2]).prod(1)
    assert float((areas / 32**2 - 1).abs().max()) < 0.05  # torchvision rounds the corners


def test_regions_go_to_the_map_of_their_size() -> None:
    """Level floor(k0 + log2(side / 224)) with k0 = 4, as FPN's Eq. 1 says; half of the sides at half of the images."""
    levels = {f"layer{i + 1}": Level(8, 4 * 2**i) for i in range(4)}
    for scale in (1.0, 0.5):
        mapper = region_pool(levels, 7, scale).map_levels
        for side, wanted in ((60, 0), (112, 1), (223, 1), (224, 2), (448, 3), (900, 3)):
            box = torch.tensor([[0.0, 0.0, side * scale, side * scale]])
            assert int(mapper([box])) == wanted, side


@pytest.mark.parametrize(("features", "heads", "half"), [
    ("fpn", "mask", torch.bfloat16), ("fpn", "mask", torch.float16), ("c4", "box", torch.bfloat16),
    ("fpn", "keypoints", torch.bfloat16),
])  # fmt: skip
def test_boxes_are_decoded_in_fp32(
    features: Features, heads: Heads, half: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boxes of every stage are those that fp64 decodes of the same corrections, within fp32's rounding."""
    plan = DetectorPlan(features, heads, 2, keypoints=3, channels=8, test_size=64, longest_side=96, score_threshold=0.0)
    torch.manual_seed(0)
    detector = build_detector(Encoder(EncoderPlan("resnet18-w8", feature_dim=8)), plan).eval()
    proposals: Any = detector.rpn
    coder_type = type(proposals.box_coder)
    decode, errors = coder_type.decode_single, list[float]()

    def decoded(coder: Any, corrections: Tensor, boxes: Tensor) -> Tensor:
        found: Tensor = decode(coder, corrections, boxes)
        exact = decode(coder, corrections.double(), boxes.double())
        errors.append(float((found.double() - exact).abs().max()))
        return found

    monkeypatch.setattr(coder_type, "decode_single", decoded)
    with torch.no_grad(), torch.autocast("cpu", dtype=half):
        found = detector([torch.rand(3, 64, 80)])[0]
    assert len(errors) == 2  # of the proposals, and of the detections
    assert max(errors) < 1e-4
    assert {found[name].dtype for name in ("boxes", "scores")} == {torch.float32}
    assert all(found[name].dtype == torch.float32 for name in ("masks", "keypoints") if name in found)
