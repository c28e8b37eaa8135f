"""Averages of the last map over the cells of grids: against loops, and for which networks there are any."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder, EncoderPlan, build_filled_encoder, encoder_tensors
from moco.core.maps import Grids, average_cells, count_numbers, encode_over
from moco.core.sizes import use_evaluation_mode
from moco.errors import BadInputError


def drawn(*shape: int) -> Tensor:
    """Random numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("rows", "columns", "k"), [(4, 4, 2), (3, 3, 3), (5, 7, 2), (7, 4, 3)])
def test_cells_by_loops(rows: int, columns: int, k: int) -> None:
    """Cell i of a line of n pixels is from floor(i n / k) up to ceil((i + 1) n / k)."""
    maps = drawn(2, 3, rows, columns)
    expected = np.empty((2, 3, k, k))
    for image, channel, i, j in itertools.product(range(2), range(3), range(k), range(k)):
        top, bottom = i * rows // k, -(-(i + 1) * rows // k)
        left, right = j * columns // k, -(-(j + 1) * columns // k)
        expected[image, channel, i, j] = maps[image, channel, top:bottom, left:right].double().numpy().mean()
    assert np.allclose(average_cells(maps, k).numpy(), expected.reshape(2, -1), atol=1e-6)


def test_several_grids_stand_behind_each_other() -> None:
    """The first, of one cell, gives the plain features."""
    encoder = Encoder(EncoderPlan("resnet10-w4", stem="cifar", image_size=32)).eval()
    images = drawn(2, 3, 32, 32)
    found = Grids(encoder.backbone, (1, 2))(images)
    assert found.shape == (2, count_numbers(encoder.num_features, (1, 2))) == (2, 5 * 32)
    assert torch.allclose(found[:, :32], encoder.backbone(images), atol=1e-5)
    assert torch.equal(found[:, 32:], encode_over(encoder.backbone, images, (2,)))
    assert torch.allclose(found[:, 32:].view(2, 32, 4).mean(2), found[:, :32], atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "size", "grids"),
    [
        ("resnet10-w4", 96, (1, 2, 3)),
        ("resnet10-w4", 64, (1, 2)),
        ("resnet10-w4", 32, (1,)),
        ("mobilenet_v2", 96, (1, 2)),  # 9 x 1,280 numbers are too many
        ("timm:tf_efficientnet_lite0", 64, (1, 2)),
        ("timm:convnext_atto", 64, (1,)),  # what follows the average is no average
        ("timm:test_vit", 160, (1,)),
        ("densenet121", 64, (1,)),
        ("bytes-tiny", 64, (1,)),
    ],
)
def test_which_networks_have_grids(arch: str, size: int, grids: tuple[int, ...]) -> None:
    """Those whose features are the average of a map that has as many rows and columns; the mode stays as it was."""
    encoder = Encoder(EncoderPlan(arch, image_size=size))
    assert encoder.train().grids(size) == grids
    assert encoder.backbone.training


def test_a_whitening_over_a_grid_travels_with_the_weights() -> None:
    """By the shapes of its tensors; what has another shape is refused."""
    plan = EncoderPlan("resnet10-w4", image_size=64)
    encoder = Encoder(plan)
    encoder.add_whitening(20, 2)
    nn.init.normal_(encoder.whitening.get_parameter("weight"))
    assert (encoder.grid, encoder.width("backbone"), encoder.width("plain")) == (2, 20, 32)
    tensors = {name: tensor.clone() for name, tensor in encoder_tensors(encoder).items()}
    again, images = build_filled_encoder(plan, tensors), drawn(2, 3, 64, 64)
    with use_evaluation_mode(encoder), use_evaluation_mode(again):
        found = again.reading("backbone")(images)
        assert torch.equal(found, encoder.reading("backbone")(images))
        cells = encode_over(encoder.backbone, images, (2,))
        assert torch.allclose(found, cells @ tensors["head.whitening.weight"].T + tensors["head.whitening.bias"])
    for shape in ((20, 32 * 3), (32 * 4 + 1, 32 * 4), (0, 32 * 4), (20,)):
        with pytest.raises(BadInputError, match="whitening"):
            build_filled_encoder(plan, tensors | {"head.whitening.weight": torch.zeros(shape)})
