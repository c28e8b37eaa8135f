"""Anchors and regions of the detectors, by the papers' formulas."""

import torch

from moco.transfer.backbones import Level
from moco.transfer.detectors import StridedAnchors, region_pool


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
