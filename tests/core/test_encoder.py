"""The encoder: its backbone and head, unit length, the sizes it takes, and its tensors by their library's names."""

import dataclasses
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from moco.core.batchnorm import GroupedBatchNorm
from moco.core.encoder import (
    Encoder,
    EncoderPlan,
    Head,
    build_filled_encoder,
    encoder_tensors,
    load_encoder_tensors,
    parameter_count,
)
from moco.core.pair import EncoderPair
from moco.errors import BadInputError

TINY = EncoderPlan(arch="resnet18-w4", stem="cifar", feature_dim=8, image_size=16)


def test_whitening_is_added_where_the_encoder_is() -> None:
    """Its tensors lie on the encoder's device, also where they are added to an encoder that was moved."""
    with torch.device("meta"):
        encoder = Encoder(TINY)
    encoder.add_whitening()
    assert {value.device.type for value in encoder.state_dict().values()} == {"meta"}


def test_images_that_a_network_does_not_take() -> None:
    """A net that halves them too often is refused with the nearest size that it takes; ResNets take any."""
    small = Encoder(EncoderPlan("alexnet", image_size=63)).train()
    small.require_size(63, "--image-size")
    assert all(module.training for module in small.modules())
    message = r"--view-size 60: alexnet does not take such images \(.+\): give --view-size 63$"
    with pytest.raises(BadInputError, match=message):
        small.require_size(60, "--view-size")
    with pytest.raises(BadInputError, match=r"give --image-size 63$"):
        small.require_size(20, "--image-size")
    Encoder(TINY).require_size(1, "--image-size")


@pytest.mark.parametrize(
    ("arch", "built", "asked", "fitting"),
    [("timm:test_vit", 160, 60, 64), ("timm:test_vit", 160, 5, 16), ("timm:test_coatnet", 160, 60, 160)],
)
def test_sizes_of_transformers(arch: str, built: int, asked: int, fitting: int) -> None:
    """Whose patches must tile the image, or which are built for one size: one that fits is named."""
    encoder = Encoder(EncoderPlan(arch, image_size=built))
    with pytest.raises(BadInputError, match=rf"--image-size {asked}: {arch} does not .*: give --image-size {fitting}$"):
        encoder.require_size(asked, "--image-size")
    encoder.require_size(fitting, "--image-size")


class Deep(nn.Linear):
    """A network that takes images of 96 pixels and more, as the Inceptions do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return features of the mean of each colour."""
        if input.shape[-1] < 96:
            raise ValueError("too small")
        return super().forward(input.mean((2, 3)))


def test_a_size_far_away_is_found() -> None:
    """A network for large images only, built for small ones, is refused with a multiple of 32 that it takes."""
    encoder = Encoder(EncoderPlan("alexnet", image_size=24))
    encoder.backbone, encoder.num_features = Deep(3, 5), 5
    with pytest.raises(BadInputError, match=r"--view-size 16: alexnet .*: give --view-size 96$"):
        encoder.require_size(16, "--view-size")


def test_linear_head() -> None:
    """v1: one layer to C = 128."""
    with torch.device("meta"):
        head = Encoder(EncoderPlan()).head
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (2048, 128)


@pytest.mark.parametrize(("arch", "hidden_dim", "expected"), [
    ("resnet50", None, (2048, 2048, 128)), ("resnet18", None, (512, 512, 128)), ("resnet18", 2048, (512, 2048, 128)),
])  # fmt: skip
def test_mlp_head(arch: str, hidden_dim: int | None, expected: tuple[int, int, int]) -> None:
    """v2: linear, ReLU, linear, by default as wide as the features (2048 for ResNet-50)."""
    with torch.device("meta"):
        head = Encoder(EncoderPlan(arch=arch, head="mlp", hidden_dim=hidden_dim)).head
    assert isinstance(head, nn.Sequential)
    first, middle, last = head
    assert isinstance(first, nn.Linear)
    assert isinstance(middle, nn.ReLU)
    assert isinstance(last, nn.Linear)
    assert (first.in_features, first.out_features, last.out_features) == expected
    assert last.in_features == first.out_features


@pytest.mark.parametrize("bf16", [False, True])
def test_output_is_fp32_of_unit_length(bf16: bool) -> None:
    """Vectors have length 1 to fp32's rounding, though everything before them is bf16."""
    torch.manual_seed(0)
    encoder = Encoder(TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        q = encoder(torch.randn(4, 3, 16, 16))
    assert q.shape == (4, 8)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)


def test_bn_groups_are_separate_batches() -> None:
    """In training an encoder with BN groups of 4 does to 12 images what it would do to each 4 alone."""
    torch.manual_seed(0)
    encoder = Encoder(TINY)
    x = torch.randn(12, 3, 16, 16)
    assert encoder.set_bn_group_size(4) == 20
    assert all(m.group_size == 4 for m in encoder.modules() if isinstance(m, GroupedBatchNorm))
    with torch.no_grad():
        grouped = encoder(x)
        encoder.set_bn_group_size(0)
        alone = torch.cat([encoder(block) for block in torch.split(x, 4)])
        together = encoder(x)
    torch.testing.assert_close(grouped, alone, rtol=0, atol=1e-5)  # fp32 through 18 layers
    assert (grouped - together).abs().max() > 1e-2


def test_tensors_carry_torchvisions_names() -> None:
    """The backbone's tensors are named as in torchvision; the head's begin with `head.`."""
    with torch.device("meta"):
        tensors = encoder_tensors(Encoder(EncoderPlan(arch="resnet50", head="mlp")))
        theirs = torchvision.models.get_model("resnet50", weights=None).state_dict()
    backbone = [name for name in tensors if not name.startswith("head.")]
    assert backbone == [name for name in theirs if not name.startswith("fc.")]
    assert [name for name in tensors if name.startswith("head.")] == [
        "head.0.weight",
        "head.0.bias",
        "head.2.weight",
        "head.2.bias",
    ]


@pytest.mark.parametrize("arch", ["resnet18-w4", "squeezenet1_1", "mnasnet0_5", "timm:test_convnext", "timm:test_vit"])
def test_tensors_round_trip(arch: str) -> None:
    """Tensors given to another encoder make it the same function."""
    plan = EncoderPlan(arch=arch, feature_dim=8, image_size=32)
    one, other = Encoder(plan).eval(), Encoder(plan).eval()
    load_encoder_tensors(other, encoder_tensors(one))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("head", ["linear", "mlp", "mlp-bn"])
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_tensors_are_named_as_in_timm(name: str, head: Head) -> None:
    """The backbone's, some of which have a `head` of their own; the projection head's stand beside them."""
    tensors = encoder_tensors(Encoder(EncoderPlan(f"timm:{name}", head=head, image_size=32)))
    theirs = timm.create_model(name, num_classes=0).state_dict()
    own = [tensor for tensor in tensors if not tensor.startswith("projection.")]
    assert own == list(theirs)
    assert len(tensors) - len(own) == {"linear": 2, "mlp": 4, "mlp-bn": 18}[head]


def test_the_heads_of_v3() -> None:
    """Three layers behind the backbone and two behind these, each with its norm, ReLU between: written out in full."""
    torch.manual_seed(0)
    encoder = Encoder(dataclasses.replace(TINY, head="mlp-bn", hidden_dim=6))
    encoder.add_predictor()
    encoder.eval()
    x = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        for name, value in encoder.named_buffers():
            if name.endswith("running_mean"):
                value.normal_()
        z = encoder.backbone(x)
        for name, layers in (("head", (0, 3, 6)), ("predictor", (0, 3))):
            for number in layers:
                z = z @ encoder.get_parameter(f"{name}.{number}.weight").T
                norm = f"{name}.{number + 1}"
                z = (z - encoder.get_buffer(f"{norm}.running_mean")) / (
                    encoder.get_buffer(f"{norm}.running_var") + 1e-5
                ).sqrt()
                z = z * encoder.get_parameter(f"{norm}.weight") + encoder.get_parameter(f"{norm}.bias")
                z = z if number == layers[-1] else z.clamp(min=0)
        torch.testing.assert_close(encoder(x), z / z.norm(dim=1, keepdim=True))


def test_only_f_q_has_a_prediction_head() -> None:
    """It is in no file of the encoder, and filling the encoder leaves it as it is; f_k follows all of f_q but this."""
    torch.manual_seed(0)
    encoder = Encoder(TINY)
    without = encoder_tensors(encoder).keys()
    encoder.add_predictor()
    encoder.set_bn_group_size(2)
    assert encoder_tensors(encoder).keys() == without
    own = {name: value.clone() for name, value in encoder.predictor.state_dict().items()}
    load_encoder_tensors(encoder, encoder_tensors(Encoder(TINY)))
    assert all(torch.equal(value, own[name]) for name, value in encoder.predictor.state_dict().items())

    pair = EncoderPair(encoder, "queue")
    assert pair.f_k is not None
    assert not list(pair.f_k.predictor.parameters())
    for parameter in encoder.parameters():
        parameter.data += 1.0
    pair.update(0.75)
    for name, value in pair.f_k.named_parameters():
        torch.testing.assert_close(value, encoder.get_parameter(name) - 0.75)


def test_features_that_are_not_pooled() -> None:
    """A network that gives one for each place is refused before the first step."""
    encoder = Encoder(EncoderPlan("timm:test_vit", image_size=32))
    encoder.backbone = timm.create_model("test_vit", num_classes=0, global_pool="", dynamic_img_size=True)
    with pytest.raises(
        BadInputError, match=r"timm:test_vit gives features of shape \(1, 5, 64\): expected pooled ones"
    ):
        encoder.require_size(32, "--image-size")


def test_tensors_of_another_shape_are_refused_by_name() -> None:
    """The error names the tensor, what was expected and what was found, and nothing is loaded."""
    encoder = Encoder(TINY)
    before = {name: value.clone() for name, value in encoder_tensors(encoder).items()}
    wrong = {
        **{name: torch.zeros_like(value) for name, value in before.items()},
        "conv1.weight": torch.zeros(4, 3, 7, 7),
    }
    with pytest.raises(BadInputError, match=r"resnet18-w4: conv1.weight expected \(4, 3, 3, 3\), found \(4, 3, 7, 7\)"):
        load_encoder_tensors(encoder, wrong)
    del wrong["conv1.weight"]
    with pytest.raises(BadInputError, match=r"conv1.weight expected \(4, 3, 3, 3\), found nothing"):
        load_encoder_tensors(encoder, wrong)
    assert all(torch.equal(value, before[name]) for name, value in encoder_tensors(encoder).items())


def test_parameter_count_counts_numbers() -> None:
    """Weights and biases count, buffers do not."""
    assert parameter_count(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(5))) == 3 * 4 + 4 + 2 * 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"arch": 5}, {"stem": "x"}, {"head": []}, {"feature_dim": 0}, {"feature_dim": 8.0}, {"feature_dim": 10**9},
        {"hidden_dim": -1}, {"image_size": "16"}, {"image_size": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_none_has(wrong: dict[str, Any]) -> None:
    """Found by fuzzing: it may come from a file."""
    plan = object.__new__(EncoderPlan)  # past the check of types, which only tests have
    for name, value in {**vars(EncoderPlan()), **wrong}.items():
        object.__setattr__(plan, name, value)
    with pytest.raises(BadInputError, match=next(iter(wrong))):
        plan.__post_init__()


def test_a_huge_net_is_not_built_for_small_weights() -> None:
    """A file may say that it is 24 TB."""
    tensors = encoder_tensors(Encoder(TINY))
    filled = encoder_tensors(build_filled_encoder(TINY, tensors))
    assert all(torch.equal(filled[name], tensors[name]) for name in tensors)
    with pytest.raises(BadInputError, match=r"weights for resnet152-w1024: bn1.bias expected \(1024,\), found \(4,\)"):
        build_filled_encoder(EncoderPlan(arch="resnet152-w1024"), tensors)
    with pytest.raises(BadInputError, match=r"weights for timm:vit_giant_patch14_224: .* found nothing"):
        build_filled_encoder(EncoderPlan(arch="timm:vit_giant_patch14_224"), tensors)


def test_a_whitening_is_computed_in_fp32() -> None:
    """Under autocast, too: it enlarges small differences, which bf16 would round away."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w4", image_size=8)).eval()
    encoder.add_whitening()
    x = torch.rand(5, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        plain, whitened = encoder.reading("plain")(x), encoder.reading("backbone")(x)
    assert whitened.dtype == torch.float32
    assert torch.equal(whitened, encoder.whitening(plain.float()))
