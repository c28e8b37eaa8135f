"""The encoder's stages as features: every tensor arrives, strides and dilation are those of the papers."""

import pytest
import torch
from torch import nn

from moco.core.encoder import Encoder, EncoderPlan
from moco.errors import BadInputError
from moco.transfer.backbones import Body, Level, SparseBatchNorm, levels_of
from moco.transfer.detectors import DetectorPlan, build_detector
from moco.transfer.segmentation import SegmentationNet
from tests.slow import slow

NARROW = ("resnet18-w16", "resnet34-w16", "resnet50-w16", "resnext50-32x8d-w8")
UNLIKE = {("resnet18-w16", "c4"), ("resnet50-w16", "dc5"), ("resnet50-w16", "fpn"), ("resnext50-32x8d-w8", "c4")}
"""Every kind of block and of detector."""


def encoder(arch: str = "resnet18-w16", stem: str = "imagenet") -> Encoder:
    """An encoder whose running statistics are not those of a new one."""
    torch.manual_seed(0)
    made = Encoder(EncoderPlan(arch, stem))  # type: ignore[arg-type]
    for name, value in made.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.add_(torch.rand_like(value) / 10)
    return made


@pytest.mark.parametrize(
    ("arch", "features"),
    [(arch, features) if (arch, features) in UNLIKE else slow(arch, features)
     for arch in NARROW for features in ("c4", "dc5", "fpn")],
)  # fmt: skip
def test_every_tensor_of_the_backbone_arrives(arch: str, features: str) -> None:
    """Each once, bit by bit, and as a copy: what trains the detector does not touch the encoder."""
    source = encoder(arch)
    heads = "mask" if features != "dc5" else "box"
    model = build_detector(source, DetectorPlan(features, heads, 3, channels=16))  # type: ignore[arg-type]
    assert_arrived(source, model, ("backbone.body.", "roi_heads.box_head."))


def test_every_tensor_of_the_backbone_arrives_in_the_segmentation_net() -> None:
    """As in detectors."""
    source = encoder()
    assert_arrived(source, SegmentationNet(source, 4, 16, (0.5,) * 3, (0.2,) * 3), ("body.",))


def assert_arrived(source: Encoder, model: nn.Module, places: tuple[str, ...]) -> None:
    """Every tensor of the backbone lies in one of the places under its own name."""
    wanted, found = source.backbone.state_dict(), model.state_dict()
    addresses = {value.data_ptr() for value in wanted.values()}
    for name, value in wanted.items():
        arrived = [found[place + name] for place in places if place + name in found]
        assert len(arrived) == 1, name
        assert torch.equal(arrived[0], value), name
        assert arrived[0].data_ptr() not in addresses


@pytest.mark.parametrize(("stem", "first"), [("imagenet", 4), ("cifar", 1)])
def test_strides_are_those_of_the_convolutions(stem: str, first: int) -> None:
    """A C5 without dilation is at 8 times the first stage's stride, with it at 4 times."""
    source = encoder(stem=stem)
    plain, dilated = levels_of(Body(source)), levels_of(Body(source, dilated=True))
    assert [level.stride for level in plain.values()] == [first, 2 * first, 4 * first, 8 * first]
    assert [level.stride for level in dilated.values()] == [first, 2 * first, 4 * first, 4 * first]
    assert plain["layer4"] == Level(128, 8 * first)


@pytest.mark.parametrize("arch", NARROW)
def test_dilation_is_set_on_every_3x3_convolution_of_conv5(arch: str) -> None:
    """Also of basic blocks; nothing in conv5 has a stride."""
    convolutions = [m for m in Body(encoder(arch), dilated=True).get_submodule("layer4").modules() if is_convolution(m)]
    assert all(one.stride == (1, 1) for one in convolutions)
    assert {one.dilation for one in convolutions if one.kernel_size == (3, 3)} == {(2, 2)}
    assert {one.dilation for one in convolutions if one.kernel_size == (1, 1)} == {(1, 1)}


def is_convolution(module: nn.Module) -> bool:
    """Whether it is one."""
    return isinstance(module, nn.Conv2d)


def test_a_dilated_net_computes_what_the_strided_one_does_and_more() -> None:
    """With the first 3x3 convolution of conv5 undilated, every second pixel is that of the net with a stride."""
    source, x = encoder(), torch.rand(1, 3, 128, 128)
    dilated = Body(source, dilated=True).eval()
    first = dilated.get_submodule("layer4.0.conv1")
    assert isinstance(first, nn.Conv2d)
    first.dilation = first.padding = (1, 1)
    strided = Body(source).eval()
    torch.testing.assert_close(dilated(x)["layer4"][:, :, ::2, ::2], strided(x)["layer4"])


def test_frozen_stages_stay_bit_equal_and_the_encoder_always() -> None:
    """Their weights and running statistics; those of the others move."""
    source = encoder()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    model = SegmentationNet(source, 3, 16, (0.5,) * 3, (0.2,) * 3, frozen=2).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1, weight_decay=0.1)
    for _ in range(2):
        losses = model([torch.rand(3, 64, 64)] * 2, [torch.randint(3, (64, 64))] * 2)
        assert isinstance(losses, dict)
        losses["loss_pixels"].backward()
        optimizer.step()
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, before[f"backbone.{name}"])
        same = torch.equal(model.body.state_dict()[name], value)
        assert same == name.startswith(("conv1", "bn1", "layer1", "layer2")), name


@pytest.mark.parametrize("frozen", [0, 3, 4])
def test_conv5_of_c4_can_be_frozen_too(frozen: int) -> None:
    """With all four stages, weights and statistics; the BN behind it is new, and trains."""
    plan = DetectorPlan("c4", "box", 3, channels=16, frozen=frozen)
    head = build_detector(encoder(), plan).train().get_submodule("roi_heads.box_head")
    conv5, norm = head.get_submodule("layer4"), head.get_submodule("norm")
    trains = frozen < 4
    assert {parameter.requires_grad for parameter in conv5.parameters()} == {trains}
    assert {module.training for module in conv5.modules()} == {trains}
    assert norm.training
    assert all(parameter.requires_grad for parameter in norm.parameters())


def test_a_net_without_stages_is_refused() -> None:
    """With what to give instead."""
    with pytest.raises(BadInputError, match=r"squeezenet1_1.*ResNet"):
        Body(Encoder(EncoderPlan("squeezenet1_1")))


def test_a_norm_records_nothing_of_no_regions() -> None:
    """And its parameters have a gradient all the same."""
    norm = SparseBatchNorm(4).train()
    norm(torch.zeros(0, 4, 7, 7, requires_grad=True)).sum().backward()
    assert torch.equal(norm.get_buffer("running_mean"), torch.zeros(4))
    assert norm.weight.grad is not None
