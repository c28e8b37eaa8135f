"""The encoder: any backbone by name, its head, unit length, and its tensors by torchvision's names."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from moco.core.batchnorm import GroupedBatchNorm
from moco.core.encoder import (
    Encoder,
    EncoderPlan,
    build_backbone,
    encoder_tensors,
    filled_encoder,
    is_head,
    load_encoder_tensors,
    parameter_count,
)
from moco.errors import BadInputError

TINY = EncoderPlan(arch="resnet18-w4", stem="cifar", feature_dim=8, image_size=16)
MODELS = torchvision.models.list_models(module=torchvision.models)
ON_META = [name for name in MODELS if not name.startswith("regnet_")]
"""RegNets compute with the values of a tensor while they are built."""


@pytest.mark.parametrize("arch", ON_META)
def test_every_torchvision_model(arch: str) -> None:
    """Every classification model of torchvision is a backbone by its name (on the meta device: shapes only)."""
    size = 299 if arch == "inception_v3" else 224
    with torch.device("meta"), torch.no_grad():
        backbone, num_features = build_backbone(arch, "imagenet", size)
        assert backbone.eval()(torch.empty(2, 3, size, size)).shape == (2, num_features)
    assert not any(is_head(name) for name in backbone.state_dict())


def test_a_regnet() -> None:
    """The one family that cannot be built on the meta device, by its smallest member."""
    backbone, num_features = build_backbone("regnet_y_400mf", "imagenet", 64)
    with torch.no_grad():
        assert backbone.eval()(torch.randn(2, 3, 64, 64)).shape == (2, num_features)


@pytest.mark.parametrize(("arch", "suggestion"), [
    ("resnet5O", "resnet50"), ("resnext50_32x8d", "resnext50-32x8d"), ("vgg_16", "vgg16"), ("vit_b_8", "vit_b_16"),
])  # fmt: skip
def test_an_unknown_arch_is_refused_with_a_suggestion(arch: str, suggestion: str) -> None:
    """A slip of the pen is answered with what was probably meant."""
    with pytest.raises(BadInputError, match=rf"--arch {arch} is not known: did you mean .*{suggestion}"):
        build_backbone(arch, "imagenet", 224)


def test_no_name_is_suggested_twice() -> None:
    """A ResNet is both ours and torchvision's, and is suggested once."""
    with pytest.raises(BadInputError, match="did you mean") as caught:
        build_backbone("resnet5O", "imagenet", 224)
    suggested = str(caught.value).partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert len(suggested) == len(set(suggested))


def test_nonsense_is_refused_without_a_suggestion() -> None:
    """Where nothing is similar, the error says what kind of name is expected."""
    with pytest.raises(BadInputError, match="give a ResNet or another torchvision model"):
        build_backbone("?", "imagenet", 224)


def test_the_small_stem_is_for_resnets() -> None:
    """Another model has no such stem, and the error says what to give."""
    with pytest.raises(BadInputError, match=r"--stem cifar is for ResNets.* give --stem imagenet"):
        build_backbone("vgg11", "cifar", 32)


@pytest.mark.parametrize("arch", ["vit_b_16", "maxvit_t"])
def test_patches_that_do_not_tile_the_image_are_refused(arch: str) -> None:
    """A transformer for 100 pixels is bad input, not a crash."""
    with torch.device("meta"), pytest.raises(BadInputError, match=f"--arch {arch} does not take --image-size 100"):
        build_backbone(arch, "imagenet", 100)


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
    assert [name for name in tensors if not is_head(name)] == [name for name in theirs if not name.startswith("fc.")]
    assert [name for name in tensors if is_head(name)] == [
        "head.0.weight",
        "head.0.bias",
        "head.2.weight",
        "head.2.bias",
    ]


@pytest.mark.parametrize("arch", ["resnet18-w4", "squeezenet1_1"])
def test_tensors_round_trip(arch: str) -> None:
    """Tensors given to another encoder make it the same function."""
    plan = EncoderPlan(arch=arch, feature_dim=8, image_size=32)
    one, other = Encoder(plan).eval(), Encoder(plan).eval()
    load_encoder_tensors(other, encoder_tensors(one))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(x), other(x))


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
    filled = encoder_tensors(filled_encoder(TINY, tensors))
    assert all(torch.equal(filled[name], tensors[name]) for name in tensors)
    with pytest.raises(BadInputError, match=r"weights for resnet152-w9999: bn1.bias expected \(9999,\), found \(4,\)"):
        filled_encoder(EncoderPlan(arch="resnet152-w9999"), tensors)
