"""Prefixes, containers and stems of many projects: the features are those of the network that the file is of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.interop.layouts import GAPS
from tests.interop.test_foreign import (
    FEATURES,
    TOLERANCE,
    State,
    features,
    linear,
    moco,
    prefixed,
    refused,
    resnet18,
    without_fc,
)
from tests.slow import slow


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Of 32 pixels."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def check(path: Path, net: nn.Module, images: Tensor, *, name: str | None = None) -> Any:
    """The file's features are the network's."""
    weights = load_weights(name or str(path))
    with torch.no_grad():
        found = weights.encoder.backbone.eval()(images)
    assert (found - features(net, images)).abs().max() <= TOLERANCE
    return weights


def children(net: nn.Module, *without: str) -> State:
    """A Sequential of torchvision's children but these and the last."""
    kept = [child for name, child in net.named_children() if name not in (*without, "fc")]
    return nn.Sequential(*kept).state_dict()


# --- prefixes and containers ----------------------------------------------------------------------------------------

Build = Callable[[nn.Module, nn.Module], Any]


def thop(q: nn.Module, _: nn.Module) -> State:
    """Counters in the network and in its modules."""
    return {**q.state_dict(), "total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1)}


def dino(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """The teacher is what its evaluations load."""
    head = linear("head.mlp.0", 8, FEATURES)
    student = prefixed("module.", prefixed("backbone.", without_fc(k)) | head)
    return {"student": student, "teacher": prefixed("backbone.", without_fc(q)) | head, "epoch": 1}


def pair(own: str, other: str) -> Build:
    """Two encoders behind these prefixes, of which the first is meant; something beside them."""

    def build(q: nn.Module, k: nn.Module) -> dict[str, Any]:
        state = prefixed(other, without_fc(k)) | prefixed(own, without_fc(q)) | linear("predictor.0", 8, 8)
        return {"state_dict": state}

    return build


def alone(prefix: str, *beside: str, container: str | None = None) -> Build:
    """One encoder behind a prefix, and layers beside it."""

    def build(q: nn.Module, _: nn.Module) -> dict[str, Any]:
        state: dict[str, Any] = prefixed(prefix, without_fc(q))
        for name in beside:
            state |= linear(name, 8, FEATURES)
        return state if container is None else {container: state, "epoch": 3, "acc": 95.0}

    return build


def inserted(module: str, wrapper: str, prefix: str) -> Build:
    """One encoder of which a module is wrapped by torch, behind a prefix."""

    def build(q: nn.Module, _: nn.Module) -> State:
        state = {name.replace(f"{module}.", f"{module}.{wrapper}."): value for name, value in without_fc(q).items()}
        return prefixed(prefix, state)

    return build


def transformers(q: nn.Module, k: nn.Module) -> State:
    """Hugging Face's ResNetForImageClassification."""
    renamed = {}
    for name, value in q.state_dict().items():
        first, _, rest = name.partition(".")
        if first.startswith("layer"):
            block, part, tail = rest.split(".", 2)
            if part == "downsample":
                number, _, end = tail.partition(".")
                inner = f"shortcut.{('convolution', 'normalization')[int(number)]}.{end}"
            else:
                inner = (
                    f"layer.{int(part[-1]) - 1}.{'convolution' if part.startswith('conv') else 'normalization'}.{tail}"
                )
            renamed[f"resnet.encoder.stages.{int(first[-1]) - 1}.layers.{block}.{inner}"] = value
        elif first == "fc":
            renamed[f"classifier.1.{rest}"] = value
        else:
            kind = "convolution" if first == "conv1" else "normalization"
            renamed[f"resnet.embedder.embedder.{kind}.{rest}"] = value
    return renamed


PREFIXES: dict[str, Build] = {
    "SupContrast": alone("encoder.module.", "head.0", container="model"),
    "torch.compile inside": alone("backbone._orig_mod.", "projection_head", container="state_dict"),
    "torch.compile outside": alone("_orig_mod.module."),
    "torch.compile of one stage": inserted("layer2", "_orig_mod", "encoder."),
    "FSDP of blocks": inserted("layer3.0", "_fsdp_wrapped_module", "_fsdp_wrapped_module."),
    "blocks computed again": inserted("layer1.1", "_checkpoint_wrapped_module", "module.backbone."),
    "n_averaged": lambda q, k: {"n_averaged": torch.tensor(3), **prefixed("module.", q.state_dict())},
    "a loss's buffers": alone("model.", "criterion.prototypes", container="state_dict"),
    "SwAV": alone("module.", "module.projection_head.0", "module.prototypes", container="state_dict"),
    "Barlow Twins": alone("module.backbone.", "module.projector.0", "module.bn", container="model"),
    "SimSiam": alone("module.encoder.", "module.encoder.fc.0", "module.predictor.0", container="state_dict"),
    "kuangliu": alone("module.", "module.linear", container="net"),
    "DeepSpeed": alone("", container="module"),
    "a container of the encoder": alone("", container="encoder"),
    "thop": thop,
    "DINO": dino,
    "lightly's DINO": pair("teacher_backbone.", "student_backbone."),
    "lightly's BYOL": pair("backbone.", "backbone_momentum."),
    "Lightning Bolts' BYOL": pair("online_network.encoder.", "target_network.encoder."),
    "lucidrains' BYOL": pair("online_encoder.net.", "target_encoder.net."),
    "MMSelfSup's BYOL": pair("online_net.0.", "target_net.0."),
    "PixPro": pair("module.encoder.", "module.encoder_k."),
    "mean over steps, timm": lambda q, k: {"state_dict": k.state_dict(), "state_dict_ema": q.state_dict()},
    "mean over steps, torchvision": lambda q, k: {
        "model": k.state_dict(),
        "model_ema": {"n_averaged": torch.tensor(1), **prefixed("module.", q.state_dict())},
    },
    "mean over steps, mmengine": lambda q, k: {"state_dict": q.state_dict(), "ema_state_dict": k.state_dict()},
    "Faster R-CNN": alone("backbone.body.", "roi_heads.box_head.fc6"),
    "DETR": alone("backbone.0.body.", "class_embed", container="model"),
    "TimmWrapper": alone("timm_model.", "classifier"),
    "transformers": transformers,
    "one module under two names": lambda q, k: prefixed("net.", q.state_dict()) | prefixed("encoder.", q.state_dict()),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_prefixes_and_containers(tmp_path: Path, images: Tensor, name: str) -> None:
    """Whatever stands before the names, and beside the backbone."""
    q, k = resnet18(1), resnet18(2)
    torch.save(PREFIXES[name](q, k), tmp_path / "weights.pth")
    weights = check(tmp_path / "weights.pth", q, images)
    assert weights.encoder.plan.arch == "resnet18-w16"


def test_what_stands_beside_is_listed(tmp_path: Path) -> None:
    """How much it is, and the first names."""
    torch.save(PREFIXES["SwAV"](resnet18(1), resnet18(2)), tmp_path / "weights.pth")
    note = load_weights(str(tmp_path / "weights.pth")).notes[-1]
    assert "4 tensors beside the backbone are not used (projection_head.0.weight, projection_head.0.bias" in note


@pytest.mark.parametrize("name", ["layer1.0.se.fc.weight", "layer1.0.conv1.bias", "conv2.weight", "maxpool.1.filt"])
def test_a_part_of_another_network_is_not_left_aside(tmp_path: Path, name: str) -> None:
    """What stands in the backbone's own modules, and convolutions beside them."""
    shape = (16, 16, 3, 3) if name.startswith(("conv2", "maxpool")) else (16,)
    assert "1 left over" in refused(tmp_path, {**resnet18(1).state_dict(), name: torch.zeros(shape)})


def test_the_other_encoder_is_read_where_it_is_asked_for(tmp_path: Path, images: Tensor) -> None:
    """part=NAME@FILE; without it the file says which it is."""
    q, k = resnet18(1), resnet18(2)
    path = tmp_path / "dino.pth"
    torch.save(dino(q, k), path)
    assert "part=student.module.backbone@" in check(path, q, images).notes[0]
    for part in ("student", "student.module.backbone"):
        check(path, k, images, name=f"part={part}@{path}")
    with pytest.raises(BadInputError, match=r"no encoder at part=techer: expected one of student.*teacher"):
        load_weights(f"part=techer@{path}")


def test_encoders_of_equal_right_are_refused(tmp_path: Path) -> None:
    """The message says how to name one."""
    content = prefixed("left.", without_fc(resnet18(1))) | prefixed("right.", without_fc(resnet18(2)))
    assert "holds 2 encoders" in (message := refused(tmp_path, content))
    assert "part=left@" in message
    assert "part=right@" in message


# --- first layers ---------------------------------------------------------------------------------------------------


def small(seed: int, *, padding: int = 1, pool: bool = False, relu: bool = True) -> nn.Module:
    """The network for small images, in the forms that others build."""
    net = resnet18(seed, small=True, padding=padding)
    if pool:
        net.set_submodule("maxpool", nn.MaxPool2d(3, 2, 1))
    if not relu:
        net.set_submodule("relu", nn.Identity())
    return net


def lightnings(state: State, **more: Any) -> dict[str, Any]:
    """A checkpoint of Lightning."""
    return {"state_dict": state, "pytorch-lightning_version": "2.6.6", **more}


def own(net: nn.Module, *beside: str) -> State:
    """A module of someone's own."""
    return alone("backbone.", *beside)(net, net)  # type: ignore[no-any-return]


STEMS: dict[str, tuple[Callable[[nn.Module], Any], str, dict[str, Any]]] = {
    "someone's own": (lambda net: {"state_dict": own(net, "classifier", "projector.0")}, "cifar", {}),
    "someone's own, by Lightning": (
        lambda net: lightnings(own(net, "classifier"), hyper_parameters={"lr": 0.1}), "cifar", {}
    ),
    "solo-learn, linear": (lambda net: lightnings(own(net, "classifier")), "cifar-padded", {"padding": 2}),
    "solo-learn, SimSiam": (
        lambda net: lightnings(own(net, "classifier", "projector.0", "predictor.0")), "cifar-padded", {"padding": 2}
    ),
    "lightly's ResNetGenerator": (
        lambda net: {"state_dict": prefixed("backbone.", children(net, "relu", "maxpool"))}, "cifar-linear",
        {"relu": False},
    ),
    "leftthomas' SimCLR": (lambda net: prefixed("f.", children(net, "maxpool")) | linear("g.0", 8, 8), "cifar", {}),
    "a Sequential with Identity": (lambda net: prefixed("backbone.", children(net)), "cifar", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STEMS)
def test_stems_by_what_the_file_shows(tmp_path: Path, images: Tensor, name: str) -> None:
    """Numbers of modules and whose file it is; what is assumed is told, with how to say otherwise."""
    build, stem, form = STEMS[name]
    net = small(1, **form)
    torch.save(build(net), tmp_path / "weights.ckpt")
    weights = check(tmp_path / "weights.ckpt", net, images)
    assert weights.encoder.plan.stem == stem
    assert f"first layers read as {stem} (" in weights.notes[0]
    assert f"stem=NAME@{tmp_path / 'weights.ckpt'}" in weights.notes[0]


@pytest.mark.parametrize(
    ("stem", "form"),
    [("cifar-pooled", {"pool": True}), ("cifar-padded", {"padding": 2}), ("cifar-linear", {"relu": False})],
)
def test_a_stem_that_the_file_does_not_show(tmp_path: Path, images: Tensor, stem: str, form: dict[str, Any]) -> None:
    """It is read as it is said to be, and nothing is assumed then."""
    net, path = small(1, **form), tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    weights = check(path, net, images, name=f"stem={stem}@{path}")
    assert not any("first layers" in note for note in weights.notes)


@pytest.mark.parametrize("gap", GAPS)
def test_large_stems_in_a_sequential(tmp_path: Path, images: Tensor, gap: int) -> None:
    """7x7 with ReLU and max-pooling, without max-pooling, without both."""
    net = resnet18(1)
    gone = {4: (), 3: ("maxpool",), 2: ("relu", "maxpool")}[gap]
    torch.save(children(net, *gone), tmp_path / "weights.pth")
    for name in gone:
        net.set_submodule(name, nn.Identity())
    check(tmp_path / "weights.pth", net, images)


@pytest.mark.parametrize("choice", ["stem=imagenet", "stem=round", "stem=cifar,colour=red", "stem="])
def test_a_choice_that_does_not_fit(tmp_path: Path, choice: str) -> None:
    """Another kernel, no such stem, no such key: one line."""
    path = tmp_path / "weights.pth"
    torch.save(small(1).state_dict(), path)
    with pytest.raises(BadInputError, match="stem") as caught:
        load_weights(f"{choice}@{path}")
    assert len(str(caught.value).splitlines()) == 1


# --- numbers that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), slow(float("inf")), slow(-3.0), 1e30])
def test_a_pointer_that_is_no_number(tmp_path: Path, value: float) -> None:
    """The place of the oldest key may be anything: it is a row all the same."""
    content = moco(resnet18(1), resnet18(2), lambda name: linear(name, 128, FEATURES))
    content["state_dict"]["module.queue_ptr"] = torch.tensor([value])
    torch.save(content, tmp_path / "weights.pth.tar")
    weights = load_weights(str(tmp_path / "weights.pth.tar"))
    assert weights.queue is not None
    assert 0 <= weights.pointer < len(weights.queue)


def test_a_queue_that_is_not_finite(tmp_path: Path) -> None:
    """It is not taken up."""
    content = moco(resnet18(1), resnet18(2), lambda name: linear(name, 128, FEATURES))
    content["state_dict"]["module.queue"][0, 0] = float("nan")
    torch.save(content, tmp_path / "weights.pth.tar")
    assert load_weights(str(tmp_path / "weights.pth.tar")).queue is None


def test_finite_weights_with_features_that_are_not(tmp_path: Path) -> None:
    """Statistics that explode: refused by every command, since all read weights here."""
    net = resnet18(1)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.fill_(0)
        if name.endswith(("bn1.weight", "bn2.weight")):
            value.fill_(3e30)
    message = refused(tmp_path, net.state_dict())
    assert "its features of an image are not finite" in message


def test_a_container_that_holds_itself(tmp_path: Path) -> None:
    """A dict in a dict without end is read to a depth."""
    content: dict[str, Any] = {"state_dict": resnet18(1).state_dict()}
    content["again"] = content
    torch.save(content, tmp_path / "weights.pth")
    assert load_weights(str(tmp_path / "weights.pth")).encoder.plan.arch == "resnet18-w16"
