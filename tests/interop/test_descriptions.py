"""What a checkpoint says of itself beside its tensors, where these do not show all of its network."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from moco.data.config import IMAGENET_MEAN
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from tests.interop.test_foreign import FEATURES, linear, prefixed, refused, resnet18, without_fc
from tests.interop.test_layouts import check, small


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Of 32 pixels."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# --- timm's training script -----------------------------------------------------------------------------------------


def trained(**options: Any) -> dict[str, Any]:
    """A checkpoint of timm's train.py, with the arguments that it keeps."""
    args = {"model": "resnet18", "model_kwargs": {}, "gp": None, "bn_eps": None, "mean": None, "std": None, **options}
    return {"arch": args["model"], "state_dict": resnet18(1).state_dict(), "args": argparse.Namespace(**args)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_kwargs": {"output_stride": 8}}, "options .output_stride."),
        ({"model_kwargs": {"act_layer": "silu"}}, "options .act_layer."),
        ({"bn_eps": 0.1}, "options .bn_eps."),
        ({"gp": "max"}, "pools its features by 'max': expected 'avg'"),
        ({"model": "test_vit", "gp": "avg"}, "pools its features by 'avg': expected 'token'"),
        ({"mean": [float("nan")] * 3}, "three finite numbers"),
    ],
)
def test_options_of_timm_that_no_tensor_shows(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Rather none than another network's features."""
    torch.save(trained(**options), tmp_path / "last.pth.tar")
    with pytest.raises(BadInputError, match=message):
        load_weights(str(tmp_path / "last.pth.tar"))


def test_images_of_timm_s_arguments(tmp_path: Path, images: Tensor) -> None:
    """Mean, deviation and size; options that act in training only are of no account."""
    options = {"mean": [0.1] * 3, "std": [0.2] * 3, "img_size": 96, "model_kwargs": {"drop_path_rate": 0.1}}
    torch.save(trained(**options), tmp_path / "last.pth.tar")
    found = check(tmp_path / "last.pth.tar", resnet18(1), images)
    assert (found.mean, found.std, found.encoder.plan.image_size) == ((0.1,) * 3, (0.2,) * 3, 96)


# --- hyper-parameters of Lightning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_first_layers_of_bolts(tmp_path: Path, images: Tensor, first: bool, pool: bool) -> None:
    """Lightning Bolts keeps whether max-pooling follows: 7x7 without it for STL-10."""
    net = resnet18(1) if first else small(1, pool=pool)
    if not pool:
        net.set_submodule("maxpool", nn.Identity())
    state = prefixed("encoder.", without_fc(net)) | linear("projection.model.0", 8, FEATURES)
    known = {"first_conv": first, "maxpool1": pool, "dataset": "stl10"}
    torch.save({"state_dict": state, "hyper_parameters": known}, tmp_path / "last.ckpt")
    assert not any("first layers" in note for note in check(tmp_path / "last.ckpt", net, images).notes)


@pytest.mark.parametrize("key", ["arch", "model_name", "backbone", "encoder"])
def test_a_network_s_name_among_hyper_parameters(tmp_path: Path, key: str) -> None:
    """Tensors of a plain network, which the name tells are of another."""
    content = {"state_dict": resnet18(1).state_dict(), "hyper_parameters": {key: "resnetblur18", "lr": 0.1}}
    assert "timm:resnetblur18" in refused(tmp_path, content)  # narrower than timm's: none of it is read


# --- backbones in another form than torchvision's --------------------------------------------------------------------


def convolution(name: str) -> dict[str, Tensor]:
    """A layer of a segmenter's head."""
    return {f"{name}.weight": torch.zeros(2, FEATURES, 1, 1)}


MM = "model = dict(backbone=dict(type='ResNet', {}), head=dict(type='LinearClsHead'))"
OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision's DeepLab": ("backbone.", convolution("classifier.0.convs.0.0")),
    "torchvision's FCN": ("backbone.", convolution("classifier.0")),
    "its second head": ("backbone.", convolution("aux_classifier.4")),
    "segmentation_models' DeepLab": ("encoder.", convolution("decoder.aspp.0.convs.0.0")),
    "segmentation_models' PAN": ("encoder.", convolution("decoder.fpa.branch1.1.conv")),
    "mmsegmentation": ("backbone.", convolution("decode_head.conv_seg")),
    "DETR's arguments": ("backbone.0.body.", {"args": argparse.Namespace(dilation=True, backbone="resnet18")}),
    "mmengine's configuration": (
        "backbone.", {"meta": {"mmengine_version": "0.10", "cfg": MM.format("dilations=(1, 1, 2, 4)")}}
    ),
    "mmcv's configuration": (
        "backbone.", {"meta": {"mmcv_version": "1.7", "config": MM.format("dilations=[1,1,1,2]")}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_dilated_backbones_are_refused(tmp_path: Path, images: Tensor, name: str) -> None:
    """No tensor shows dilation; with a stem given the file is read as torchvision's ResNet all the same."""
    prefix, beside = OTHER[name]
    tensors = {key: value for key, value in beside.items() if isinstance(value, Tensor)}
    more = {key: value for key, value in beside.items() if key not in tensors}
    net = resnet18(1)
    message = refused(tmp_path, {"model": prefixed(prefix, without_fc(net)) | tensors, **more})
    path = tmp_path / "weights.pth.tar"
    assert "dilated" in message
    assert f"stem=imagenet@{path}" in message
    check(path, net, images, name=f"stem=imagenet@{path}")


@pytest.mark.parametrize(
    "beside",
    [
        {"meta": {"mmengine_version": "0.10", "cfg": MM.format("dilations=(1, 1, 1, 1), style='pytorch'")}},
        {"args": argparse.Namespace(dilation=False)},
        linear("classifier.1", 3, FEATURES),
        linear("decode_head.0", 3, FEATURES),
        convolution("decoder.blocks.0.conv1.0"),
    ],
    ids=["mmengine", "DETR", "classifier", "linear", "U-Net"],
)
def test_ordinary_backbones_are_read(tmp_path: Path, images: Tensor, beside: dict[str, Any]) -> None:
    """What stands beside them tells of no dilation."""
    net = resnet18(1)
    torch.save({"state_dict": prefixed("backbone.", without_fc(net)), **beside}, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", net, images)


def test_strides_as_caffe_has_them(tmp_path: Path, images: Tensor) -> None:
    """In the first convolution of a block; blocks of two convolutions have them there anyway."""
    meta = {"mmengine_version": "0.10", "cfg": MM.format('style="caffe"')}
    deep = prefixed("backbone.", ResNet(Bottleneck, [1, 1, 1, 1]).state_dict())
    assert "Caffe's style" in refused(tmp_path, {"state_dict": deep, "meta": meta})
    net = resnet18(1)
    torch.save({"state_dict": prefixed("backbone.", without_fc(net)), "meta": meta}, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", net, images)


def test_max_pooling_is_assumed_aloud(tmp_path: Path) -> None:
    """No tensor shows whether it follows the 7x7 convolution (MONAI and others leave it out)."""
    torch.save(resnet18(1).state_dict(), tmp_path / "weights.pth")
    notes = load_weights(str(tmp_path / "weights.pth")).notes
    assert f"stem=imagenet-unpooled@{tmp_path / 'weights.pth'}" in notes[0]


# --- normalisation inside of a network -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (("module.normalizer.new_mean", "module.normalizer.new_std"), True),
        (("0.mean", "0.std"), True),
        (("mu", "sigma"), True),
        (("pixel_mean", "pixel_std"), False),
    ],
)
def test_mean_and_deviation_in_the_network(tmp_path: Path, names: tuple[str, str], own: bool) -> None:
    """They are the images' (robustness, RobustBench), unless they are of bytes (detectron2)."""
    values = (torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0.5, 0.25, 0.125]))
    shaped = [value.reshape(3, 1, 1) * (1 if own else 255) for value in values]
    torch.save(prefixed("1.", resnet18(1).state_dict()) | dict(zip(names, shaped, strict=True)), tmp_path / "w.pth")
    found = load_weights(str(tmp_path / "w.pth"))
    assert found.mean == ((0.25, 0.5, 0.75) if own else IMAGENET_MEAN)
    assert any(names[0] in note and "mean and deviation" in note for note in found.notes) is own


# --- heads of a transformer ------------------------------------------------------------------------------------------


def fixed_places(width: int, side: int, *, slow: bool) -> Tensor:
    """Sines and cosines of MoCo v3, whose first half is of the rows, and of MAE, where it is of the columns."""
    omega = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [places.flatten()[:, None] * omega for places in ((rows, columns) if slow else (columns, rows))]
    places = torch.cat([turn(angle) for angle in angles for turn in (torch.sin, torch.cos)], 1)
    return torch.cat([torch.zeros(1, width), places])[None]


@pytest.mark.parametrize(("slow", "message"), [(True, "MoCo v3, with 12 heads"), (False, "missing .cls_token")])
def test_the_heads_of_moco_v3(tmp_path: Path, slow: bool, message: str) -> None:
    """Its ViT-S has 12 where timm's has 6, which no tensor shows, but its fixed places do."""
    torch.save({"state_dict": {"pos_embed": fixed_places(384, 14, slow=slow)}}, tmp_path / "vit-s.pth.tar")
    with pytest.raises(BadInputError, match=message):
        load_weights(f"timm:vit_small_patch16_224@{tmp_path / 'vit-s.pth.tar'}")
