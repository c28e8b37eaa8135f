"""Other projects' checkpoints, built here from their documented layouts: f_q's features are torchvision's own."""

import argparse
import builtins
import codecs
import copy
import functools
import importlib
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from moco.core.encoder import EncoderPlan
from moco.core.networks import build_backbone
from moco.core.resnet import RESNETS
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.errors import BadInputError
from moco.interop.architecture import infer
from moco.interop.checkpoints import load_weights
from tests.slow import slow

State = dict[str, Tensor]
TOLERANCE = 1e-5
ARCH, FEATURES = "resnet18-w16", 128


class Narrow(ResNet):
    """Torchvision's ResNet-18 with a quarter of its channels, so that its files are small."""

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> Any:
        if planes == 64:
            self.inplanes = 16
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        return super()._make_layer(block, planes // 4, blocks, stride, dilate)  # type: ignore[misc]


def resnet18(seed: int, *, small: bool = False, padding: int = 1) -> nn.Module:
    """It, with random weights and statistics, in 3x3 form where it is for small images."""
    net = copy.deepcopy(drawn_resnet18(seed, small, padding))
    torch.manual_seed(seed)  # what a test draws next is the same whether this was drawn now or before
    return net


@functools.cache
@torch.no_grad()
def drawn_resnet18(seed: int, small: bool, padding: int) -> nn.Module:
    """The same, which nobody may change: to draw it takes longer than to read it."""
    torch.manual_seed(seed)
    net = Narrow(BasicBlock, [2, 2, 2, 2])
    net.set_submodule("fc", nn.Linear(FEATURES, 1000))
    if small:
        net.set_submodule("conv1", nn.Conv2d(3, 16, 3, 1, padding, bias=False))
        net.set_submodule("maxpool", nn.Identity())
    for name, value in net.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Two photographs, at 64 pixels."""
    images = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    return nn.functional.interpolate(torch.stack(images), (64, 64), mode="bilinear", antialias=True) * 4 - 2


@torch.no_grad()
def features(net: nn.Module, images: Tensor) -> Tensor:
    """Of torchvision's net, before its classifier."""
    headless = copy.deepcopy(net)
    headless.set_submodule("fc", nn.Identity())
    found: Tensor = headless.eval()(images)
    return found


def prefixed(prefix: str, state: State) -> State:
    """Every name with `prefix` before it."""
    return {prefix + name: value for name, value in state.items()}


def without_fc(net: nn.Module) -> State:
    """The backbone's part of torchvision's state dict."""
    return {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}


def linear(prefix: str, outputs: int, inputs: int) -> State:
    """A layer that is no part of the backbone."""
    return {f"{prefix}.weight": torch.randn(outputs, inputs), f"{prefix}.bias": torch.randn(outputs)}


# --- the layouts ----------------------------------------------------------------------------------------------------


def moco(q: nn.Module, k: nn.Module, head: Callable[[str], State]) -> dict[str, Any]:
    """main_moco.py: the DistributedDataParallel's state dict, the head in place of fc."""
    state = OrderedDict(prefixed("module.encoder_q.", {**without_fc(q), **head("fc")}))
    state |= prefixed("module.encoder_k.", {**without_fc(k), **head("fc")})
    state["module.queue"] = nn.functional.normalize(torch.randn(128, 96), dim=0)
    state["module.queue_ptr"] = torch.tensor([32])
    optimizer = torch.optim.SGD(q.parameters(), lr=0.03, momentum=0.9).state_dict()
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": optimizer}


def moco_v1(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """A linear head."""
    return moco(q, k, lambda name: linear(name, 128, FEATURES))


def moco_v2(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """Two layers, numbers 0 and 2 of a Sequential."""
    return moco(q, k, lambda name: {**linear(f"{name}.0", FEATURES, FEATURES), **linear(f"{name}.2", 128, FEATURES)})


def moco_v2_released(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """The published files have f_q only."""
    content = moco_v2(q, k)
    kept = {name: value for name, value in content["state_dict"].items() if name.startswith("module.encoder_q.")}
    return {"epoch": 200, "arch": "resnet18", "state_dict": kept}


def moco_v3(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """Its projector stands in fc, layers without bias and batch normalisation between them."""
    state = prefixed("module.base_encoder.", without_fc(q)) | prefixed("module.momentum_encoder.", without_fc(k))
    for encoder in ("base", "momentum"):
        projector = nn.Sequential(nn.Linear(FEATURES, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8))
        state |= prefixed(f"module.{encoder}_encoder.fc.", projector.state_dict())
    state |= linear("module.predictor.0", 8, 8)
    return {"epoch": 100, "arch": "resnet18", "state_dict": state, "optimizer": {}, "scaler": {}}


def lightly(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """A LightningModule whose backbone is a Sequential of torchvision's children but the last."""
    backbones = [nn.Sequential(*list(net.children())[:-1]).state_dict() for net in (q, k)]
    state = prefixed("backbone.", backbones[0]) | prefixed("backbone_momentum.", backbones[1])
    state |= linear("projection_head.layers.0", FEATURES, FEATURES) | linear(
        "projection_head_momentum.layers.0", FEATURES, FEATURES
    )
    beside = {"pytorch-lightning_version": "2.5.0", "callbacks": {}, "loops": {}, "lr_schedulers": []}
    return {"epoch": 9, "global_step": 10, "state_dict": state, **beside}


def lightly_backbone(q: nn.Module, k: nn.Module) -> State:
    """As its examples save it: the backbone's state dict alone."""
    return nn.Sequential(*list(q.children())[:-1]).state_dict()


def solo(q: nn.Module, k: nn.Module, name: str) -> dict[str, Any]:
    """Its MoCo v2+: an online classifier beside the projector, a momentum copy of both encoders."""
    state = prefixed(f"{name}.", without_fc(q)) | prefixed(f"momentum_{name}.", without_fc(k))
    state |= linear("classifier", 10, FEATURES) | linear("momentum_classifier", 10, FEATURES)
    state |= linear("projector.0", FEATURES, FEATURES) | linear("momentum_projector.0", FEATURES, FEATURES)
    state["queue"] = torch.randn(2, 256, 64)
    return {"epoch": 9, "state_dict": state, "pytorch-lightning_version": "1.6.4"}


def mmselfsup(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """0.x: the backbone is also the first part of encoder_q."""
    state = prefixed("backbone.", without_fc(q)) | prefixed("encoder_q.0.", without_fc(q))
    state |= (
        prefixed("encoder_k.0.", without_fc(k))
        | linear("encoder_q.1.mlp.0", 8, FEATURES)
        | {"queue": torch.randn(128, 64)}
    )
    return {"meta": {"mmcv_version": "1.4", "epoch": 200, "config": "model = dict()"}, "state_dict": state}


def openselfsup(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """The same before it, where only encoder_q was kept."""
    state = prefixed("encoder_q.0.", without_fc(q)) | prefixed("encoder_k.0.", without_fc(k))
    return {"meta": {}, "state_dict": state | linear("encoder_q.1.mlp.0", 8, FEATURES)}


def mmpretrain(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """Mmengine's checkpoint."""
    state = prefixed("backbone.", without_fc(q)) | linear("neck.fc0", 8, FEATURES) | linear("head.fc", 8, FEATURES)
    state |= prefixed("encoder_k.module.0.", without_fc(k))
    return {"meta": {"mmengine_version": "0.10", "epoch": 200, "cfg": ""}, "state_dict": state, "message_hub": {}}


def vissl(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """Trunk and heads inside Classy Vision's state."""
    model = {"trunk": prefixed("_feature_blocks.", without_fc(q)), "heads": linear("0.clf.0", 8, FEATURES)}
    return {"phase_idx": 1, "classy_state_dict": {"base_model": {"model": model, "meters": []}, "optimizer": {}}}


def with_classifier(q: nn.Module, k: nn.Module) -> State:
    """Torchvision's and timm's own files: both have the same names."""
    return q.state_dict()


def headless(q: nn.Module, k: nn.Module) -> State:
    """The same without classifier."""
    return without_fc(q)


def data_parallel(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """The ImageNet example's: everything behind `module.`."""
    return {"epoch": 90, "arch": "resnet18", "state_dict": prefixed("module.", q.state_dict()), "best_acc1": 70.0}


LAYOUTS: dict[str, tuple[Callable[[nn.Module, nn.Module], Any], str]] = {
    "MoCo v1": (moco_v1, "MoCo"),
    "MoCo v2": (moco_v2, "MoCo"),
    "MoCo v2, released": (moco_v2_released, "MoCo"),
    "MoCo v3": (moco_v3, "MoCo v3"),
    "lightly": (lightly, "lightly"),
    "lightly's backbone": (lightly_backbone, "lightly"),
    "solo-learn": (lambda q, k: solo(q, k, "backbone"), "solo-learn"),
    "solo-learn, old": (lambda q, k: solo(q, k, "encoder"), "solo-learn"),
    "mmselfsup": (mmselfsup, "mmselfsup or mmpretrain"),
    "OpenSelfSup": (openselfsup, "mmselfsup"),
    "mmpretrain": (mmpretrain, "mmselfsup or mmpretrain"),
    "VISSL": (vissl, "VISSL"),
    "torchvision": (with_classifier, "torchvision"),
    "torchvision, headless": (headless, "torchvision"),
    "DataParallel": (data_parallel, "torchvision"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_features_are_torchvisions(tmp_path: Path, photographs: Tensor, name: str) -> None:
    """Those of f_q, not of f_k; the values that the file leaves out are ImageNet's."""
    q, k = resnet18(1), resnet18(2)
    build, origin = LAYOUTS[name]
    path = tmp_path / "weights.pth.tar"
    torch.save(build(q, k), path, _use_new_zipfile_serialization=name != "MoCo v1")  # torch.save's form before 1.6
    weights = load_weights(str(path))
    with torch.no_grad():
        found = weights.encoder.backbone.eval()(photographs)
    expected = features(q, photographs)
    assert (found - expected).abs().max() <= TOLERANCE < 0.01 < (features(k, photographs) - expected).abs().max()
    assert weights.origin == origin
    assert (weights.encoder.plan.arch, weights.encoder.plan.stem) == (ARCH, "imagenet")
    assert (weights.mean, weights.std, weights.encoder.plan.image_size) == (IMAGENET_MEAN, IMAGENET_STD, 224)


def test_safetensors_of_torchvisions_names(tmp_path: Path, photographs: Tensor) -> None:
    """As timm's hub has them."""
    q = resnet18(1)
    save_file(q.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    with torch.no_grad():
        found = load_weights(str(tmp_path)).encoder.backbone.eval()(photographs)
    assert (found - features(q, photographs)).abs().max() <= TOLERANCE


def notebook(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """The MoCo authors' notebook: a Sequential without max-pooling, with Flatten before fc."""

    def numbered(net: nn.Module) -> State:
        children = [child for name, child in net.named_children() if name not in ("maxpool", "fc")]
        return nn.Sequential(*children, nn.Flatten(1), nn.Linear(FEATURES, 128)).state_dict()

    state = prefixed("encoder_q.net.", numbered(q)) | prefixed("encoder_k.net.", numbered(k))
    return {"epoch": 200, "state_dict": {**state, "queue": torch.randn(128, 64), "queue_ptr": torch.zeros(1).long()}}


def generated(q: nn.Module, k: nn.Module) -> dict[str, Any]:
    """The children of lightly's own ResNets for small images: no module for ReLU, `shortcut` for `downsample`."""
    children = [child for name, child in q.named_children() if name not in ("relu", "maxpool", "avgpool", "fc")]
    state = nn.Sequential(*children, nn.AdaptiveAvgPool2d(1)).state_dict()
    named = {name.replace("downsample", "shortcut"): value for name, value in state.items()}
    return {"state_dict": prefixed("backbone.", named) | linear("projection_head.layers.0", 8, FEATURES)}


@pytest.mark.parametrize(
    ("build", "stem"),
    [
        (notebook, "cifar"),
        (generated, "cifar-linear"),
        (lambda q, k: solo(q, k, "backbone"), "cifar-padded"),
        (headless, "cifar"),
    ],
    ids=["notebook", "lightly", "solo-learn", "plain"],
)
def test_small_stems(tmp_path: Path, photographs: Tensor, build: Callable[..., Any], stem: str) -> None:
    """3x3 convolutions are recognised by their shape; solo-learn's pads by 2, lightly's has no ReLU behind it."""
    q, k = (resnet18(seed, small=True, padding=2 if stem == "cifar-padded" else 1) for seed in (1, 2))
    if stem == "cifar-linear":
        q.set_submodule("relu", nn.Identity())
    torch.save(build(q, k), tmp_path / "weights.pth")
    weights = load_weights(str(tmp_path / "weights.pth"))
    images = photographs[..., :32, :32]
    with torch.no_grad():
        found = weights.encoder.backbone.eval()(images)
    assert (found - features(q, images)).abs().max() <= TOLERANCE
    assert (weights.encoder.plan.stem, weights.encoder.plan.image_size) == (stem, 32)


# --- heads, f_k and queue -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "head"), [(moco_v1, "linear"), (moco_v2, "mlp")])
def test_the_references_head_f_k_and_queue(
    tmp_path: Path, photographs: Tensor, build: Callable[..., Any], head: str
) -> None:
    """The head is f_q's; f_k and the queue are there to train on from, one row a key."""
    q, k = resnet18(1), resnet18(2)
    content = build(q, k)
    torch.save(content, tmp_path / "weights.pth.tar")
    weights = load_weights(str(tmp_path / "weights.pth.tar"))
    state, hidden = content["state_dict"], None if head == "linear" else FEATURES
    assert weights.encoder.plan == EncoderPlan(ARCH, "imagenet", "mlp" if hidden else "linear", 128, hidden, 224)
    expected = features(q, photographs)
    for number in ("",) if head == "linear" else ("0.", "2."):
        weight, bias = (state[f"module.encoder_q.fc.{number}{part}"] for part in ("weight", "bias"))
        expected = nn.functional.linear(expected.relu() if number == "2." else expected, weight, bias)
    with torch.no_grad():
        found = weights.encoder.eval()(photographs)
    assert (found - nn.functional.normalize(expected)).abs().max() <= TOLERANCE
    assert weights.momentum is not None
    assert weights.queue is not None
    assert torch.equal(weights.momentum["layer4.1.conv2.weight"], k.state_dict()["layer4.1.conv2.weight"])
    assert torch.equal(weights.queue[5], state["module.queue"][:, 5])
    assert (tuple(weights.queue.shape), weights.pointer) == ((96, 128), 32)


def test_a_file_without_head_has_no_random_one(tmp_path: Path, photographs: Tensor) -> None:
    """Its encoder's output is refused, not made up."""
    torch.save(without_fc(resnet18(1)), tmp_path / "weights.pth")
    weights = load_weights(str(tmp_path / "weights.pth"))
    with pytest.raises(BadInputError, match=r"no projection head.*--features backbone"):
        weights.encoder(photographs)


# --- the architecture -----------------------------------------------------------------------------------------------


WIDTHS = ["resnet18-w16", "resnet18-2x", "resnet50-2x", "resnet50-4x", "resnet50-w48"]


@pytest.mark.parametrize(
    "arch", [slow(arch) if "101" in arch or "152" in arch else arch for arch in (*RESNETS, *WIDTHS)]
)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_architecture_is_found_from_names_and_shapes(arch: str, stem: Any) -> None:
    """Depth, width, groups and stem."""
    with torch.device("meta"):
        net, _ = build_backbone(arch, stem, 224)
        if stem == "imagenet" and arch in torchvision.models.list_models(module=torchvision.models):
            net = torchvision.models.get_model(arch, weights=None)
    assert infer(net.state_dict(), "file") == (arch, stem)


# --- what does not fit ----------------------------------------------------------------------------------------------


def refused(tmp_path: Path, content: object) -> str:
    """The message, in one line, with the file's name."""
    torch.save(content, tmp_path / "weights.pth.tar")
    with pytest.raises(BadInputError) as caught:
        load_weights(str(tmp_path / "weights.pth.tar"))
    message = str(caught.value)
    assert "weights.pth.tar" in message
    assert len(message.splitlines()) == 1
    return message


def test_missing_and_left_over_tensors_are_listed(tmp_path: Path) -> None:
    """How many, the first few of each, and what has another shape."""
    state = without_fc(resnet18(1))
    for name in [name for name in state if name.startswith("layer3.0.") and "num_batches" not in name]:
        del state[name]
    state["layer2.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    state |= {f"layer1.0.se.{number}": torch.zeros(1) for number in range(2)}
    message = refused(tmp_path, {"state_dict": prefixed("backbone.", state)})
    assert "resnet18" in message
    assert "15 missing (layer3.0.conv1.weight, layer3.0.bn1.weight, layer3.0.bn1.bias, ...)" in message
    assert "2 left over (layer1.0.se.0, layer1.0.se.1)" in message
    assert "1 of another shape (layer2.0.conv1.weight (1, 2, 3, 3) for (32, 16, 3, 3))" in message


@pytest.mark.parametrize("gone", [4, 3])
def test_a_whole_stage_is_missed(tmp_path: Path, gone: int) -> None:
    """Too few blocks are no smaller ResNet."""
    state = {name: value for name, value in without_fc(resnet18(1)).items() if not name.startswith(f"layer{gone}")}
    assert f"missing (layer{gone}.0.conv1.weight" in refused(tmp_path, state)


def test_no_resnet(tmp_path: Path) -> None:
    """The first names are told, and what is read."""
    message = refused(tmp_path, {"state_dict": {"features.0.weight": torch.zeros(4, 3, 3, 3)}})
    assert "features.0.weight" in message
    assert "expected a ResNet of MoCo" in message


@pytest.mark.parametrize("name", ["conv1.0.weight", "stem.0.weight"])
def test_deep_stems_are_refused(tmp_path: Path, name: str) -> None:
    """The stems of timm's resnet50d and of, mmpretrain's ResNetV1d."""
    state = {key: value for key, value in without_fc(resnet18(1)).items() if key != "conv1.weight"}
    assert "deep stem" in refused(tmp_path, {**state, name: torch.zeros(32, 3, 3, 3)})


@pytest.mark.parametrize(
    "content", [{}, [], 3, {"state_dict": {}}, {"state_dict": {"epoch": 3}}, {"model": None}], ids=str
)
def test_no_tensors(tmp_path: Path, content: object) -> None:
    """Whatever else is in the file."""
    assert "no tensors" in refused(tmp_path, content)


def test_a_head_that_is_not_the_references(tmp_path: Path, photographs: Tensor) -> None:
    """Three layers in fc: the backbone is read, and stands without a head."""
    q = resnet18(1)
    content = moco(q, resnet18(2), lambda name: linear(f"{name}.0", 8, 8) | linear(f"{name}.4", 8, 8))
    torch.save(content, tmp_path / "weights.pth.tar")
    weights = load_weights(str(tmp_path / "weights.pth.tar"))
    with torch.no_grad():
        assert (weights.encoder.backbone.eval()(photographs) - features(q, photographs)).abs().max() <= TOLERANCE
    with pytest.raises(BadInputError, match="no projection head"):
        weights.encoder(photographs)


def test_tensors_that_are_not_all_in_the_file(tmp_path: Path) -> None:
    """One number repeated a million times, a tensor without numbers: both count as missing."""
    state = without_fc(resnet18(1))
    state["layer1.0.conv1.weight"] = torch.zeros(1).expand(16, 16, 3, 3)
    state["layer1.0.conv2.weight"] = torch.zeros(16, 16, 3, 3, device="meta")
    assert "2 missing (layer1.0.conv1.weight, layer1.0.conv2.weight)" in refused(tmp_path, state)


# --- pickles --------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign_class() -> Iterator[Callable[[str, str], Any]]:
    """Makes a class that can be pickled as if its package were installed; afterwards it is not."""
    made: list[str] = []

    def make(module: str, name: str, base: type = object) -> Any:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            package = ".".join(parts[:end])
            if package not in sys.modules:
                sys.modules[package] = types.ModuleType(package)
                made.append(package)
        own = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, own)
        return own

    yield make
    for package in made:
        sys.modules.pop(package, None)


FOREIGN = [
    ("omegaconf.dictconfig", "DictConfig", object),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object),
    ("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
    ("mmengine.logging.history_buffer", "HistoryBuffer", object),
    ("mmengine.config.config", "ConfigDict", dict),
    ("classy_vision.generic.something", "Thing", object),
]


@pytest.mark.parametrize(("module", "name", "base"), FOREIGN, ids=[row[1] for row in FOREIGN])
@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_objects_are_passed_over(
    tmp_path: Path, foreign_class: Any, module: str, name: str, base: type, legacy: bool
) -> None:
    """With attributes, with entries, as a key; their package need not be installed, and is not imported."""
    own = foreign_class(module, name, base)
    thing = own()
    thing.attribute = {"lr": 0.1}
    if base is dict:
        thing["lr"] = own(depth=3)
    state = without_fc(resnet18(1))
    content = {"hyper_parameters": thing, "callbacks": {own: 1}, "state_dict": prefixed("backbone.", state)}
    torch.save(content, tmp_path / "weights.ckpt", _use_new_zipfile_serialization=not legacy)
    for package in [key for key in sys.modules if key.split(".")[0] == module.split(".")[0]]:
        del sys.modules[package]
    weights = load_weights(str(tmp_path / "weights.ckpt"))
    assert torch.equal(weights.encoder.state_dict()["backbone.conv1.weight"], state["conv1.weight"])
    assert module not in sys.modules


def test_objects_of_the_standard_library_and_numpy(tmp_path: Path) -> None:
    """Arguments, paths, scalars, arrays and default dicts."""
    from collections import defaultdict

    content = {
        "args": argparse.Namespace(out=Path("runs"), lr=0.1, nested=argparse.Namespace(a=1)),
        "best": np.float64(0.5),
        "losses": np.arange(4.0),
        "seen": defaultdict(list, {"a": [1]}),
        "kinds": (dict, int, np.float32),
        "state_dict": prefixed("backbone.", without_fc(resnet18(1))),
    }
    torch.save(content, tmp_path / "weights.ckpt")
    assert load_weights(str(tmp_path / "weights.ckpt")).encoder.plan.arch == ARCH


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_function_of_the_system_is_refused_by_name(tmp_path: Path, legacy: bool, hidden: bool) -> None:
    """Beside sound tensors, or as one of them."""
    sprung = tmp_path / "sprung"
    trap = Call(os.mkdir, str(sprung))
    state = prefixed("backbone.", without_fc(resnet18(1)))
    content = {"state_dict": {**state, "backbone.bn1.bias": trap}} if hidden else {"args": trap, "state_dict": state}
    torch.save(content, tmp_path / "weights.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInputError, match=r"refused.*(posix|nt)\.mkdir"):
        load_weights(str(tmp_path / "weights.ckpt"))
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__"])
def test_a_builtin_function_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Types of builtins may stand in a checkpoint, functions not."""
    sprung = tmp_path / "sprung"
    trap = Call(getattr(builtins, name), f"open({str(sprung)!r}, 'w')")
    torch.save({"args": trap, "state_dict": without_fc(resnet18(1))}, tmp_path / "w.ckpt")
    with pytest.raises(BadInputError, match=f"refused.*{name}"):
        load_weights(str(tmp_path / "w.ckpt"))
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["bytearray", "FloatTensor", "UntypedStorage", "Tensor"])
def test_what_takes_memory_by_a_number_is_refused_unread(tmp_path: Path, name: str) -> None:
    """Torch's own unpickler allows these, and a kilobyte would take six GiB."""
    make: Any = getattr(builtins, name, None) or getattr(torch, name)
    torch.save({"args": Call(make, 6 << 10), "state_dict": without_fc(resnet18(1))}, tmp_path / "w.ckpt")
    with pytest.raises(BadInputError, match=f"refused.*{name}"):
        load_weights(str(tmp_path / "w.ckpt"))


@pytest.mark.parametrize("codec", ["hex", "Quoted-Printable", "base64_codec"])
def test_bytes_that_grow_with_every_call_are_refused_unread(tmp_path: Path, codec: str) -> None:
    """Encoded anew by each of 40 calls, 32 bytes become more than any memory."""
    grown: Any = Call(codecs.encode, "abcdefgh" * 4, "latin1")
    for _ in range(40):
        grown = Call(codecs.encode, grown, codec)
    state = prefixed("backbone.", without_fc(resnet18(1)))
    torch.save({"args": grown, "state_dict": state}, tmp_path / "w.ckpt")
    with pytest.raises(BadInputError, match=rf"refused.*_codecs\.encode to {codec}"):
        load_weights(str(tmp_path / "w.ckpt"))


def test_containers_that_hold_one_another_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of eight dicts has the next under a thousand names: refused after a while, whether there are tensors."""
    monkeypatch.setattr("moco.interop.contents.MOST_ENTRIES", 20_000)
    for inner in ({"weight": torch.zeros(1)}, {}):
        node: dict[str, Any] = inner
        for _ in range(8):
            node = dict.fromkeys(map(str, range(1000)), node)
        torch.save(node, tmp_path / "w.ckpt")
        with pytest.raises(BadInputError, match=r"w\.ckpt: has more than 20000 entries"):
            load_weights(str(tmp_path / "w.ckpt"))


def test_a_function_of_a_known_package_is_not_called(tmp_path: Path) -> None:
    """Numpy has one that executes text: a stub stands for it."""
    sprung = tmp_path / "sprung"
    runstring = importlib.import_module("numpy.testing._private.utils").runstring
    trap = Call(runstring, f"open({str(sprung)!r}, 'w').close()", {})
    torch.save({"args": trap, "state_dict": prefixed("backbone.", without_fc(resnet18(1)))}, tmp_path / "w.ckpt")
    assert load_weights(str(tmp_path / "w.ckpt")).encoder.plan.arch == ARCH
    assert not sprung.exists()
    torch.load(tmp_path / "w.ckpt", weights_only=False)  # the trap is a real one
    assert sprung.exists()


def test_an_unknown_class_is_refused_by_name(tmp_path: Path, foreign_class: Any) -> None:
    """Of a package that is none of the known projects'."""
    thing = foreign_class("stranger.things", "Thing")()
    torch.save({"args": thing, "state_dict": without_fc(resnet18(1))}, tmp_path / "w.ckpt")
    with pytest.raises(BadInputError, match=r"refused.*stranger\.things\.Thing"):
        load_weights(str(tmp_path / "w.ckpt"))


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_pickles_of_other_protocols_are_refused(tmp_path: Path, protocol: int) -> None:
    """Whatever opcodes they use."""
    sprung = tmp_path / "sprung"
    (tmp_path / "w.ckpt").write_bytes(pickle.dumps({"state_dict": Call(os.mkdir, str(sprung))}, protocol))
    with pytest.raises(BadInputError, match=r"w\.ckpt"):
        load_weights(str(tmp_path / "w.ckpt"))
    assert not sprung.exists()


def test_nothing_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tar of the oldest form of torch.save, and a zip that is larger than it looks."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        for name in ("pickle", "storages", "tensors", "../escaped"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"\x80\x02N."))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02" + b"N0" * 10_000_000 + b"N.")
    for name, text in (("old.tar", "old.tar"), ("bomb.pth", "more than its own size")):
        with pytest.raises(BadInputError, match=text):
            load_weights(str(tmp_path / name))
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file(tmp_path: Path, share: float, legacy: bool) -> None:
    """Wherever it was cut off."""
    path = tmp_path / "w.pth"
    torch.save(without_fc(resnet18(1)), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadInputError, match=r"w\.pth"):
        load_weights(str(path))


def test_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    """It was taken for a damaged file of safetensors."""
    torch.save(None, tmp_path / "none.pth")
    with pytest.raises(BadInputError, match=r"none.pth: holds nothing, as torch.save\(None\) writes it"):
        load_weights(str(tmp_path / "none.pth"))
