"""Backbones by name: torchvision's and timm's models without their classifiers, and names that are not known."""

from typing import Any

import pytest
import timm
import torch
import torchvision

from moco.core.encoder import head_prefix
from moco.core.networks import build_backbone, require_timm_name, timm_config, timm_options
from moco.errors import BadInputError
from tests.slow import slow

MODELS = torchvision.models.list_models(module=torchvision.models)
ON_META = [name for name in MODELS if not name.startswith("regnet_")]
"""RegNets compute with the values of a tensor while they are built."""
SMALLEST = {
    "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5",
    "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_v2_t", "vgg11", "vit_b_16",
}  # fmt: skip
"""One network of each kind; the others are larger ones of the same classes, and slow."""
KINDS = {
    "test_resnet": 64,  # batch normalisation
    "test_efficientnet": 48,  # with the activation in it
    "test_convnext": 64,  # layer normalisation, some of it in the head
    "test_vit": 64,  # patches, and an embedding of their places that follows the size
    "test_coatnet": 64,  # convolutions and attention, built for one size
    "mobilenetv3_small_050": 33,  # a layer behind the pooling
    "levit_128s": 64,  # images as rows of tokens
}
"""Networks of timm of every kind, and a size that is not timm's own."""


@pytest.mark.parametrize("arch", [name if name in SMALLEST else slow(name) for name in ON_META])
def test_every_torchvision_model(arch: str) -> None:
    """Every classification model of torchvision is a backbone by its name (on the meta device: shapes only)."""
    size = 299 if arch == "inception_v3" else 224
    with torch.device("meta"), torch.no_grad():
        backbone, num_features = build_backbone(arch, "imagenet", size)
        assert backbone.eval()(torch.empty(2, 3, size, size)).shape == (2, num_features)
    assert not any(name.startswith(head_prefix(arch)) for name in backbone.state_dict())


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


# --- timm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), KINDS.items())
def test_a_network_of_timm(name: str, size: int) -> None:
    """Its features are what timm itself pools and hands to the classifier, on images of another size than timm's."""
    torch.manual_seed(0)
    backbone, num_features = build_backbone(f"timm:{name}", "imagenet", size)
    options = timm_options(f"timm:{name}", size)
    theirs: Any = timm.create_model(name, **options)
    _, unexpected = theirs.load_state_dict(backbone.state_dict(), strict=False)
    assert not unexpected
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = backbone.eval()(x)
        expected = theirs.eval().forward_head(theirs.forward_features(x), pre_logits=True)
    assert features.shape == (2, num_features)
    torch.testing.assert_close(features, expected)
    assert float(features.std()) > 0


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "resnet50_clip"])
def test_tensors_do_not_depend_on_the_size(name: str) -> None:
    """So that weights for one size are trained on at another, and timm takes them without an option for it."""
    with torch.device("meta"):
        shapes = [
            {n: value.shape for n, value in build_backbone(f"timm:{name}", "imagenet", size)[0].state_dict().items()}
            for size in (64, 160)
        ]
        theirs = {n: value.shape for n, value in timm.create_model(name, num_classes=0).state_dict().items()}
    assert shapes == [theirs, theirs]


def test_looking_for_options_draws_no_random_numbers() -> None:
    """A run's weights are those of its seed, whatever was looked up before."""
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(build_backbone("timm:test_vit2", "imagenet", 32)[0].state_dict()["pos_embed"])
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("timm:resnet5O", "has no network of that name: did you mean timm:resnet50"),
        ("timm:tf_efficientnet_lite", "did you mean timm:tf_efficientnet_lite"),
        ("timm:hf-hub:someone/something", "has no network of that name"),
        ("timm:local-dir:/tmp/x", "has no network of that name"),
        ("timm:../resnet50", "did you mean timm:resnet50"),
        ("timm:", r"timm.list_models\(\) says what there is"),
        ("timm:resnet50.a1_in1k", r"\.a1_in1k names weights: give timm:resnet50$"),
    ],
)
def test_names_that_timm_does_not_know(given: str, message: str) -> None:
    """Nothing but the names of its networks is given to timm, which would read folders and the network for others."""
    with pytest.raises(BadInputError, match=f"^--arch {given}: .*{message}"):
        build_backbone(given, "imagenet", 64)


def test_names_of_weights() -> None:
    """Where several are published for a network, a tag behind its name says which."""
    require_timm_name("timm:resnet50.a1_in1k", "--weights", tags=True)
    with pytest.raises(BadInputError, match=r"--weights timm:resnet50.a1_in1: .* did you mean timm:resnet50.a1_in1k"):
        require_timm_name("timm:resnet50.a1_in1", "--weights", tags=True)


def test_a_network_without_pooled_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused by name."""
    made: Any = timm.create_model("test_resnet", num_classes=0)
    made.num_features = made.head_hidden_size = 0
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    with pytest.raises(BadInputError, match="--arch timm:test_resnet gives no pooled features"):
        build_backbone("timm:test_resnet", "imagenet", 64)


def test_sizes_that_a_network_cannot_be_built_for() -> None:
    """The size that it was made for is named."""
    with pytest.raises(BadInputError, match=r"--arch timm:nest_tiny does not take --image-size 100 .*size 224$"):
        build_backbone("timm:nest_tiny", "imagenet", 100)


def test_images_that_are_not_square() -> None:
    """Are reported before anything is built."""
    with pytest.raises(BadInputError, match="timm:vit_base_patch16_sapiens2 takes images of 3 x 1024 x 768"):
        timm_config("timm:vit_base_patch16_sapiens2")
    with pytest.raises(BadInputError, match=r"--stem cifar is for ResNets.* give --stem imagenet"):
        build_backbone("timm:test_resnet", "cifar", 32)
