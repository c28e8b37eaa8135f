"""The ResNets against torchvision's and against the papers' parameter counts."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from moco.core.encoder import parameter_count
from moco.core.networks import build_backbone
from moco.core.resnet import RESNETS, NarrowConv, PaddedConv, ResNet, ResNetPlan, resnet_plan
from moco.core.stems import Stem
from moco.errors import BadInputError
from tests import oracles

LAYERS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
"""arXiv:1512.03385, Table 1."""


@torch.no_grad()
def fill(net: nn.Module) -> nn.Module:
    """Give every tensor of a net on the meta device quick, well-scaled random values."""
    net.to_empty(device="cpu")
    for name, value in net.state_dict().items():
        if value.dim() == 4:
            value.normal_(std=math.sqrt(1 / value[0].numel()))
        elif name.endswith("num_batches_tracked"):
            value.zero_()
        else:
            value.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [7, 8])
def test_narrow_convolution_equals_the_strided_one(side: int, memory: torch.memory_format) -> None:
    """Outputs and gradients are those of every second pixel times the weights, in float64."""
    conv = NarrowConv(3, 5, 1, 2, bias=False).double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64).contiguous(memory_format=memory).requires_grad_()
    y = conv(x)
    pixels = x.detach().numpy()[:, :, ::2, ::2]
    expected = np.einsum("oc,nchw->nohw", conv.weight.detach().numpy()[:, :, 0, 0], pixels)
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-12)
    torch.autograd.backward(y.sum())
    assert x.grad is not None
    assert conv.weight.grad is not None
    np.testing.assert_allclose(conv.weight.grad[:, :, 0, 0].numpy(), np.tile(pixels.sum((0, 2, 3)), (5, 1)), atol=1e-12)
    assert int((x.grad != 0).sum()) == 2 * 3 * 4 * 4  # every second row and column


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_convolution_of_single_pixels_is_the_same(side: int) -> None:
    """Values and gradients are those of torch's convolution; taps that meet only padding get a gradient of zero."""
    torch.manual_seed(0)
    conv, plain = (
        PaddedConv(4, 5, 3, padding=1, bias=False).double(),
        nn.Conv2d(4, 5, 3, padding=1, bias=False).double(),
    )
    plain.load_state_dict(conv.state_dict())
    ours, theirs = (torch.randn(2, 4, side, side, dtype=torch.float64).requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    y, expected = conv(ours), plain(theirs)
    (y * torch.arange(y.numel()).view_as(y)).sum().backward()
    (expected * torch.arange(y.numel()).view_as(y)).sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad)


def test_the_last_stage_has_them_and_draws_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many random numbers are drawn, in the same order, as for plain convolutions."""
    torch.manual_seed(3)
    ours = ResNet(RESNETS["resnet18"], "imagenet")
    assert sum(isinstance(module, PaddedConv) for module in ours.modules()) == 3
    monkeypatch.setattr("moco.core.resnet._pad_no_pixels", lambda blocks: None)
    torch.manual_seed(3)
    for own, plain in zip(ours.parameters(), ResNet(RESNETS["resnet18"], "imagenet").parameters(), strict=True):
        assert torch.equal(own, plain)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_equals_torchvision(arch: str) -> None:
    """Names, weights and features are torchvision's: the same operations, so the same bits."""
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, weights=None)
        ours, num_features = build_backbone(arch, "imagenet", 224)
    theirs.set_submodule("fc", nn.Identity())
    weights = fill(theirs).state_dict()
    assert list(ours.state_dict()) == list(weights)
    ours.load_state_dict(weights, assign=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, expected = ours.eval()(x), theirs.eval()(x)
    assert features.shape == (2, num_features)
    assert expected.std() > 0
    assert torch.equal(features, expected)


@pytest.mark.parametrize(("arch", "millions"), [
    ("resnet50", 24), ("resnext50-32x8d", 46), ("resnet50-2x", 94), ("resnet50-4x", 375),
])  # fmt: skip
def test_sizes_are_the_papers(arch: str, millions: int) -> None:
    """The numbers of parameters are those of v1, Table 1, in millions."""
    with torch.device("meta"):
        net, _ = build_backbone(arch, "imagenet", 224)
    assert round(parameter_count(net) / 1e6) == millions


@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize(("arch", "base", "width", "groups", "width_per_group"), [
    ("resnet18", "resnet18", 64, 1, 64),
    ("resnet34", "resnet34", 64, 1, 64),
    ("resnet50", "resnet50", 64, 1, 64),
    ("resnet101", "resnet101", 64, 1, 64),
    ("resnet152", "resnet152", 64, 1, 64),
    ("resnext50_32x4d", "resnet50", 64, 32, 4),
    ("resnext50-32x8d", "resnet50", 64, 32, 8),
    ("resnext101_32x8d", "resnet101", 64, 32, 8),
    ("resnext101_64x4d", "resnet101", 64, 64, 4),
    ("wide_resnet50_2", "resnet50", 64, 1, 128),
    ("wide_resnet101_2", "resnet101", 64, 1, 128),
    ("resnet50-2x", "resnet50", 128, 1, 64),
    ("resnet50-4x", "resnet50", 256, 1, 64),
    ("resnet18-w16", "resnet18", 16, 1, 64),
    ("resnet18-3x", "resnet18", 192, 1, 64),
])  # fmt: skip
def test_parameter_counts(
    arch: str, base: str, width: int, groups: int, width_per_group: int, small_stem: bool
) -> None:
    """Every architecture has as many parameters as counted by hand."""
    layers, bottleneck = LAYERS[base]
    with torch.device("meta"):
        net, num_features = build_backbone(arch, "cifar" if small_stem else "imagenet", 224)
    expected = oracles.resnet_parameters(layers, bottleneck, width, groups, width_per_group, small_stem)
    assert parameter_count(net) == expected
    assert num_features == width * 8 * (4 if bottleneck else 1)


@pytest.mark.parametrize(("stem", "side"), [
    ("cifar", 32), ("cifar-padded", 34), ("cifar-pooled", 16), ("cifar-linear", 32), ("imagenet", 8),
    ("imagenet-unpooled", 16), ("imagenet-linear", 16),
])  # fmt: skip
def test_stem_resolution(stem: Stem, side: int) -> None:
    """The cifar stem keeps the resolution up to layer1; ImageNet's leaves a quarter; and so on for the others."""
    with torch.device("meta"):
        net = ResNet(RESNETS["resnet18"], stem)
        x = torch.empty(2, 3, 32, 32)
        stemmed = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        assert net.layer1(stemmed).shape == (2, 64, side, side)
        end = -(-side // 8)
        assert net.layer4(net.layer3(net.layer2(net.layer1(stemmed)))).shape == (2, 512, end, end)


def test_initial_weights() -> None:
    """Convolutions start with variance 2 / fan_out (arXiv:1502.01852; an estimate from n values errs by 1 / sqrt(2 n)).

    Batch normalisation starts as the identity.
    """
    torch.manual_seed(0)
    net = ResNet(RESNETS["resnet18"], "cifar")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            deviation = float(module.weight.detach().std()) / expected - 1
            assert abs(deviation) < 5 / math.sqrt(2 * module.weight.numel())
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones(module.num_features))
            assert torch.equal(module.bias, torch.zeros(module.num_features))


@pytest.mark.parametrize("arch", ["resnet", "resnet50-0x", "resnet50-x", "resnet18-w0", "resnet18-16", "vgg11-2x", ""])
def test_other_names_are_no_resnets(arch: str) -> None:
    """Only a ResNet's name with a width has a plan."""
    assert resnet_plan(arch) is None


def test_width_is_read_from_the_name() -> None:
    """`-2x` multiplies the base width and `-w16` replaces it; the rest of the plan stays."""
    double, narrow = resnet_plan("resnext50-32x8d-2x"), resnet_plan("resnet18-w16")
    assert double is not None
    assert narrow is not None
    assert (double.width, double.groups, double.width_per_group) == (128, 32, 8)
    assert (narrow.width, narrow.block) == (16, RESNETS["resnet18"].block)


def test_convolutions_by_pytorch_are_uniform_with_a_third_of_one_over_fan_in() -> None:
    """Every weight lies within 1 / sqrt(fan-in), and fills that range evenly: variance 1 / (3 fan-in)."""
    net = ResNet(ResNetPlan(BasicBlock, (1, 1, 1, 1), width=16), "cifar")
    before = {name: value.clone() for name, value in net.state_dict().items() if value.dim() != 4}
    net.reset_convolutions()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_in, weight = module.weight[0].numel(), module.weight.detach()
            assert weight.abs().max() <= 1 / math.sqrt(fan_in)
            assert float(weight.var()) * 3 * fan_in == pytest.approx(1, abs=4 / math.sqrt(weight.numel()))
    for name, value in before.items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["resnet18-w1025", "resnet18-w9999", "resnet50-17x", "resnet50-99x"])
def test_widths_beyond_every_machine_are_refused(arch: str) -> None:
    """Before memory is taken; 1024 is the last."""
    with pytest.raises(BadInputError, match=f"--arch {arch} has a base width of .*: expected at most 1024"):
        resnet_plan(arch)
    last = resnet_plan("resnet50-16x")
    assert last is not None
    assert last.width == 1024
