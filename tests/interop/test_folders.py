"""Weights in a folder, in pieces, and with a description beside them or in themselves."""

import argparse
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from moco.data.config import IMAGENET_MEAN
from moco.errors import BadInputError
from moco.interop.architecture import ANTIALIASED
from moco.interop.checkpoints import load_weights
from moco.interop.folders import read_description
from tests.interop.test_foreign import FEATURES, linear, prefixed, resnet18
from tests.interop.test_layouts import check, own, small, transformers


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Of 32 pixels."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def write_json(path: Path, content: Any) -> None:
    """As the libraries do."""
    path.write_text(json.dumps(content), encoding="utf-8")


# --- timm -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def antialiased(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A narrow ResNet of timm with average pooling in place of strides, which its tensors do not show."""

    def make_resnet_aa(pretrained: bool = False, **options: Any) -> nn.Module:
        classes = options.get("num_classes", 1000)
        net = ResNet(
            cast("Any", BasicBlock),
            (2, 2, 2, 2),
            classes,
            channels=(8, 16, 32, 64),
            stem_width=8,
            aa_layer=nn.AvgPool2d,
        )
        net.pretrained_cfg = timm.get_pretrained_cfg("test_resnet").to_dict()  # type: ignore[union-attr]
        return net

    monkeypatch.setitem(timm.models._registry._model_entrypoints, "resnetaa50", make_resnet_aa)
    torch.manual_seed(0)
    return make_resnet_aa(num_classes=3).eval()


def timm_features(net: nn.Module, images: Tensor) -> Tensor:
    """By its own functions."""
    with torch.no_grad():
        found: Tensor = net.forward_head(net.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return found


def check_timm(weights: str, net: nn.Module, images: Tensor) -> Any:
    """The features are timm's."""
    found = load_weights(weights)
    with torch.no_grad():
        difference = (found.encoder.backbone.eval()(images) - timm_features(net, images)).abs().max()
    assert difference <= 1e-5
    return found


def test_a_folder_of_timms(tmp_path: Path, images: Tensor, antialiased: nn.Module) -> None:
    """config.json says which network it is, and its images' mean, deviation and size."""
    save_file(antialiased.state_dict(), tmp_path / "model.safetensors")
    about = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 96, 96]}
    write_json(tmp_path / "config.json", {"architecture": "resnetaa50", "pretrained_cfg": about})
    for name in (tmp_path, tmp_path / "model.safetensors"):
        found = check_timm(str(name), antialiased, images)
        assert found.encoder.plan.arch == "timm:resnetaa50"
        assert (found.mean, found.std, found.encoder.plan.image_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 96)


@pytest.mark.parametrize("kept", ["arch", "args", "wrapper"])
def test_a_file_that_says_its_network(tmp_path: Path, images: Tensor, antialiased: nn.Module, kept: str) -> None:
    """Timm's training script keeps the name and its arguments; transformers writes timm's networks with a prefix."""
    state = antialiased.state_dict()
    if kept == "wrapper":
        save_file(prefixed("timm_model.", state), tmp_path / "model.safetensors")
        write_json(tmp_path / "config.json", {"architecture": "resnetaa50", "model_type": "timm_wrapper"})
        check_timm(str(tmp_path), antialiased, images)
        return
    more = {"arch": "resnetaa50"} if kept == "arch" else {"args": argparse.Namespace(model="resnetaa50", lr=0.1)}
    torch.save({"epoch": 1, "state_dict": state, **more}, tmp_path / "last.pth.tar")
    check_timm(str(tmp_path / "last.pth.tar"), antialiased, images)


def test_a_file_whose_name_alone_says_its_network(tmp_path: Path, images: Tensor, antialiased: nn.Module) -> None:
    """Files that timm offers for download are called so; the command says what it took."""
    torch.save(antialiased.state_dict(), tmp_path / "resnetaa50_a1h-4cf422b3.pth")
    found = check_timm(str(tmp_path / "resnetaa50_a1h-4cf422b3.pth"), antialiased, images)
    assert found.encoder.plan.arch == "timm:resnetaa50"
    assert "read as timm:resnetaa50, as its name says" in found.notes[0]


def test_a_plain_resnet_may_hide_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoothing before a stride has no tensors: what was assumed is told, unless the file or its project says it."""
    monkeypatch.setitem(ANTIALIASED, "resnet18-w16", ("resnetblur18",))
    torch.save(resnet18(1).state_dict(), tmp_path / "weights.pth")
    note = load_weights(str(tmp_path / "weights.pth")).notes[0]
    assert note.startswith(f"{tmp_path / 'weights.pth'}: read as a plain resnet18-w16")
    path = tmp_path / "weights.pth"
    assert note.endswith(f"give timm:resnetblur18@{path} or stem=imagenet-unpooled@{path} where it is one")
    torch.save(prefixed("module.encoder_q.", resnet18(1).state_dict()), tmp_path / "moco.pth")
    assert load_weights(str(tmp_path / "moco.pth")).notes == ()
    chosen = load_weights(f"stem=imagenet@{tmp_path / 'weights.pth'}").notes
    assert not any("read as" in note for note in chosen)


@pytest.mark.parametrize(("plain", "other"), [(plain, one) for plain, others in ANTIALIASED.items() for one in others])
def test_networks_of_the_same_tensors(plain: str, other: str) -> None:
    """The table of them is right."""
    with torch.device("meta"):
        nets = torchvision.models.get_model(plain, weights=None), timm.create_model(other)
    one, same = ({name: value.shape for name, value in net.state_dict().items()} for net in nets)
    assert one == same


def test_any_network_of_timm_in_a_folder(tmp_path: Path, images: Tensor) -> None:
    """As timm itself writes the folder."""
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm.models._hub.save_config_for_hf(net, str(tmp_path / "config.json"))
    assert check_timm(str(tmp_path), net, torch.randn(2, 3, 160, 160)).encoder.plan.arch == "timm:test_vit"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "resnet18", "model_args": {"block_args": {}}}, "options .block_args"),
        ({"architecture": "test_vit", "global_pool": "max"}, "pools its features by 'max'"),
        ({"architecture": "resnet18", "pretrained_cfg": {"mean": [math.nan, 0, 0]}}, "three finite numbers"),
        ({"architecture": "resnet18", "pretrained_cfg": {"std": [10**400, 1, 1]}}, "three finite numbers"),
        ({"architecture": "resnet18", "pretrained_cfg": {"std": [0, 1, 1]}}, "three finite numbers, std above 0"),
        ({"architecture": "no_such_network"}, "no network of that name"),
        ({"model_type": "resnet", "downsample_in_bottleneck": True}, "downsample_in_bottleneck is True"),
        ({"model_type": "resnet", "hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_a_description_that_cannot_be_followed(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """Rather none than another network's features."""
    save_file(resnet18(1).state_dict(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", config)
    with pytest.raises(BadInputError, match=message) as caught:
        load_weights(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_config_that_is_none(tmp_path: Path) -> None:
    """Damaged text is told with its file."""
    save_file(resnet18(1).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{" * 5000)
    with pytest.raises(BadInputError, match=r"config\.json: not JSON"):
        load_weights(str(tmp_path))


@pytest.mark.parametrize("name", ["encoder.safetensors", "model.safetensors", "pytorch_model.bin", "other.pth"])
def test_a_pipe_in_place_of_weights(tmp_path: Path, name: str) -> None:
    """It is refused by its folder and by its name: to open it would wait for ever."""
    os.mkfifo(tmp_path / name)
    for given in (tmp_path / name, *([] if name == "other.pth" else [tmp_path])):
        with pytest.raises(BadInputError, match=rf"{name}: expected a regular file"):
            load_weights(str(given))


# --- Hugging Face ---------------------------------------------------------------------------------------------------


def test_a_folder_of_transformers(tmp_path: Path, images: Tensor) -> None:
    """preprocessor_config.json has mean and deviation."""
    net = resnet18(1)
    save_file(transformers(net, net), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"model_type": "resnet", "hidden_act": "relu", "embedding_size": 16})
    about = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"shortest_edge": 64}}
    write_json(tmp_path / "preprocessor_config.json", about)
    found = check(tmp_path, net, images)
    assert (found.mean, found.std, found.encoder.plan.image_size) == ((0.5,) * 3, (0.2,) * 3, 64)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_pieces_with_an_index(tmp_path: Path, images: Tensor, kind: str) -> None:
    """The folder, or the index itself."""
    net, name = resnet18(1), {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[kind]
    state, stem = net.state_dict(), name.partition(".")[0]
    pieces = [dict(list(state.items())[start::2]) for start in (0, 1)]
    places = dict[str, str]()
    for number, piece in enumerate(pieces, 1):
        file = f"{stem}-0000{number}-of-00002.{kind}"
        (save_file if kind == "safetensors" else torch.save)(piece, tmp_path / file)
        places |= dict.fromkeys(piece, file)
    write_json(tmp_path / f"{name}.index.json", {"metadata": {"total_size": 1}, "weight_map": places})
    check(tmp_path, net, images)
    check(tmp_path / f"{name}.index.json", net, images)
    (tmp_path / file).unlink()
    with pytest.raises(BadInputError, match=r"its piece .*00002.* is missing"):
        load_weights(str(tmp_path))


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/passwd", "", 3, "a\\b"])
def test_an_index_that_leads_elsewhere(tmp_path: Path, place: object) -> None:
    """Pieces lie beside the index."""
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"conv1.weight": place}})
    with pytest.raises(BadInputError, match="no index of weights"):
        load_weights(str(tmp_path))


# --- solo-learn, and folders without a known name -------------------------------------------------------------------


def test_solo_learns_arguments_beside_its_checkpoint(tmp_path: Path, images: Tensor) -> None:
    """args.json is solo-learn's, whatever else the checkpoint has; the folder's only file is taken."""
    net = small(1, padding=2)
    torch.save({"state_dict": own(net, "head.0"), "hyper_parameters": {"a": 1}}, tmp_path / "net-ep=9.ckpt")
    write_json(tmp_path / "args.json", {"backbone": {"name": "resnet18"}, "data": {"dataset": "cifar10"}})
    assert check(tmp_path, net, images).encoder.plan.stem == "cifar-padded"


def test_several_files_in_a_folder(tmp_path: Path) -> None:
    """None is chosen by chance."""
    for name in ("a.pth", "b.pth"):
        torch.save(resnet18(1).state_dict(), tmp_path / name)
    with pytest.raises(BadInputError, match="2 other files of weights: give one of them"):
        load_weights(str(tmp_path))


def test_a_plain_name_keeps_the_plain_network(tmp_path: Path, images: Tensor) -> None:
    """`arch` of MoCo's and the ImageNet example's files."""
    net = resnet18(1)
    torch.save({"arch": "resnet18", "state_dict": {**net.state_dict(), **linear("x", 8, FEATURES)}}, tmp_path / "w.pth")
    assert check(tmp_path / "w.pth", net, images).mean == IMAGENET_MEAN


@pytest.mark.parametrize(("stored", "found"), [(4095, 4095), (None, None), (0, None), ("4095", None), (10**30, None)])
def test_the_white_level_in_the_reference_s_layout(stored: object, found: int | None) -> None:
    """It stands with mean and deviation, as `moco export` writes them; what is no level is none."""
    own = {"encoder": {"image_size": 96}, "mean": [0.1] * 3, "std": [0.2] * 3, "white_level": stored}
    about = read_description(Path("x.pth.tar"), {"state_dict": {}, "moco": own})
    assert (about.image_size, about.mean, about.white_level) == (96, (0.1,) * 3, found)
