"""DepthwiseConv against torch's own convolution in float64."""

import copy

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from moco.core.depthwise import DepthwiseConv, quicken_depthwise

CHANNELS = 4
ROUNDING = 2**-8
"""bf16 has 8 bits: a number that is rounded once is off by at most this share."""

Pair = tuple[int, int]
SHAPES: list[tuple[Pair, Pair, Pair, bool]] = [
    ((3, 3), (1, 1), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), True),
    ((5, 5), (1, 1), (2, 2), False),
    ((5, 5), (2, 2), (2, 2), False),
    ((5, 5), (3, 3), (0, 0), False),
    ((7, 7), (1, 1), (3, 3), True),
    ((7, 7), (2, 2), (3, 3), False),
    ((1, 7), (1, 1), (0, 3), False),
    ((4, 3), (2, 1), (3, 0), False),
    ((2, 2), (2, 2), (0, 0), False),
]
"""Kernel, stride, padding, bias."""
LAYERS: list[nn.Conv2d] = [
    *(
        nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=CHANNELS, bias=bias)
        for kernel, stride, padding, bias in SHAPES
    ),
    *(Conv2dSame(CHANNELS, CHANNELS, kernel, 2, groups=CHANNELS, bias=False) for kernel in (3, 5)),
]


def gradients(layer: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The layer's values, and the gradients of sum(weights * y) by x and by each parameter, in float64."""
    x = x.clone().requires_grad_()
    y = layer(x)
    wanted = (x, *layer.parameters())
    return tuple(value.double() for value in (y.detach(), *torch.autograd.grad((y * weights).sum(), wanted)))


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (10, 11)])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_gradients_equal_float64(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    """Values and gradients in bf16 are those in float64 of the same numbers, but for the rounding of the results."""
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    for parameter in layer.parameters():
        parameter.data = torch.randn_like(parameter).bfloat16().float()
    network, exact = nn.Sequential(copy.deepcopy(layer)), layer.double()
    assert quicken_depthwise(network) == 1
    x = torch.randn(2, CHANNELS, *size).bfloat16()
    weights = torch.randn_like(exact(x.double())).bfloat16()

    expected = gradients(exact, x.double(), weights.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(network, x, weights)

    for value, true in zip(found, expected, strict=True):
        torch.testing.assert_close(value, true, rtol=0, atol=4 * ROUNDING * float(true.abs().max()))


def test_a_network_keeps_its_values_and_names() -> None:
    """In fp32, and in bf16 without a gradient, each value is the same to the bit; so are names and parameters."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    names, parameters = list(network.state_dict()), set(network.parameters())
    x = torch.randn(1, 3, 32, 32)

    def values() -> list[Tensor]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rounded = network(x)
        return [network(x).detach(), rounded]

    before = values()
    assert quicken_depthwise(network) == 16
    assert quicken_depthwise(network) == 0
    assert list(network.state_dict()) == names
    assert set(network.parameters()) == parameters
    assert all(torch.equal(value, other) for value, other in zip(values(), before, strict=True))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
        nn.Conv2d(1, 1, 3),
    ],
    ids=str,
)
def test_other_convolutions_stay(layer: nn.Conv2d) -> None:
    """Whatever is not a plain depthwise convolution is left alone."""
    assert quicken_depthwise(nn.Sequential(layer)) == 0


def test_frozen_parts_get_no_gradient() -> None:
    """A frozen weight gets none, and x still does."""
    network = nn.Sequential(nn.Conv2d(4, 4, 5, 2, 2, groups=4, bias=False).requires_grad_(False))
    quicken_depthwise(network)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        network(x).sum().backward()
    (layer,) = network
    assert isinstance(layer, DepthwiseConv)
    assert layer.weight.grad is None
    assert x.grad is not None
