"""A run on images of other channels: what it settles, its first layer, and what every command makes of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as PillowImage
from timm.models import adapt_input_conv

from moco.commands import embed, export, knn, pretrain
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.settling import Asked
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig, KnnConfig
from moco.interop.checkpoints import load_weights
from moco.interop.config import ExportConfig
from moco.pretraining.channels import asked_of
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import adapt_channels
from moco.pretraining.recipes import recipe


def write_set(folder: Path, channels: int = 4, count: int = 20) -> str:
    """Two classes that differ in the last channel only."""
    rng = np.random.default_rng(0)
    for number in range(count):
        values = rng.integers(0, 1000, (channels, 16, 16)).astype(np.uint16)
        values[-1] += np.uint16(2000 * (number % 2))
        path = folder / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="separate")
    return str(folder)


def settings(data: str, out: Path, **more: Any) -> PretrainConfig:
    """A run of two steps of a tiny network."""
    small: dict[str, Any] = {
        "arch": "resnet10-w4", "image_size": 16, "view_size": 16, "batch_size": 8, "bn_groups": 2, "max_steps": 2,
        "workers": 0, "threads": 1, "device": "cpu", "precision": "fp32", **more,
    }  # fmt: skip
    return recipe("quick", data=data, out=out, **small)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A set of four channels, and a run on it."""
    folder = tmp_path_factory.mktemp("channels")
    data, out = write_set(folder / "x"), folder / "run"
    pretrain.run(settings(data, out))
    return data, out


def test_the_run_says_what_its_images_are(trained: tuple[str, Path]) -> None:
    """Its config and its weights have the channels with mean and deviation; weights are read back with them."""
    _, out = trained
    config = json.loads((out / "config.json").read_text())
    assert (config["channels"], len(config["mean"]), len(config["std"])) == ("4", 4, 4)
    weights = load_weights(str(out))
    assert weights.form is not None
    assert (weights.form.channels, weights.form.depth) == (4, "uint16")
    assert list(weights.form.mean) == config["mean"]
    assert weights.encoder.plan.channels == 4
    assert weights.encoder.backbone.conv1.weight.shape[1] == 4  # type: ignore[union-attr, index]
    assert load_weights(str(next((out / "checkpoints").iterdir()))).form == weights.form


def test_the_same_command_finds_the_run_finished(trained: tuple[str, Path]) -> None:
    """Measured anew, mean and deviation are the same numbers; and the run's own config asks for nothing else."""
    data, out = trained
    before = (out / "encoder.safetensors").read_bytes()
    pretrain.run(settings(data, out))
    config = dataclasses.replace(settings(data, out), channels="4", mean=(1.0,) * 4, std=(2.0,) * 4)
    assert asked_of(config) == Asked("4", moments=((1.0,) * 4, (2.0,) * 4))
    assert (out / "encoder.safetensors").read_bytes() == before


def test_every_command_reads_the_set_by_its_weights(trained: tuple[str, Path], tmp_path: Path) -> None:
    """kNN, features and an ONNX file, whose features are compared by the export itself."""
    data, out = trained
    found = knn.run(KnnConfig(str(out), data, device="cpu", workers=0, threads=1))
    assert found["top1"] == 100.0
    features = embed.run(EmbedConfig(str(out), data, tmp_path / "f.npz", device="cpu", workers=0, threads=1))
    assert features["images"] == 20
    done = export.run(ExportConfig(str(out), "safetensors", tmp_path / "folder"))
    assert done["largest_difference"] < 1e-4
    assert load_weights(str(tmp_path / "folder")).form == load_weights(str(out)).form
    with pytest.raises(BadInputError, match="takes RGB, and these weights 4 channels of uint16"):
        export.run(ExportConfig(str(out), "detectron2", tmp_path / "d"))


def test_other_images_are_refused_by_name(trained: tuple[str, Path], tmp_path: Path) -> None:
    """Weights of four channels see no RGB and no thirteen bands."""
    _, out = trained
    with pytest.raises(BadInputError, match="--data digits: bytes of RGB, expected images of 4 channels of uint16"):
        knn.run(KnnConfig(str(out), "digits", device="cpu", workers=0, threads=1))
    other = write_set(tmp_path / "x", 2)
    with pytest.raises(BadInputError, match=r"tif: 2 channels of uint16, expected 4 channels of uint16"):
        knn.run(KnnConfig(str(out), other, device="cpu", workers=0, threads=1))
    with pytest.raises(BadInputError, match=r"takes 4 channels of uint16, and the images have 2 channel"):
        pretrain.run(settings(other, tmp_path / "run", init_weights=str(out), channels="2"))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("channels", [2, "rgb"])
def test_weights_that_fit_no_image_are_to_blame(trained: tuple[str, Path], tmp_path: Path, channels: int | str) -> None:
    """Not the images, as if each were damaged; nothing is written."""
    (tmp_path / "x").mkdir()
    if channels == "rgb":
        for number in range(9):
            PillowImage.new("RGB", (16, 16 + number)).save(tmp_path / "x" / f"{number}.png")
    else:
        write_set(tmp_path / "x", int(channels))
    with pytest.raises(BadInputError, match=r"and the weights take 4 channels of uint16: give other weights"):
        pretrain.run(settings(str(tmp_path / "x"), tmp_path / "run", init_weights=str(trained[1])))
    assert not (tmp_path / "run").exists()


def test_a_baseline_of_other_channels_is_named_before_anything_is_encoded(
    trained: tuple[str, Path], tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which weights it is about."""
    monkeypatch.setattr("moco.commands.knn.knn_scores", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(BadInputError, match=r"--baseline .*: takes .*RGB, and the images are 4 channels of uint16"):
        knn.run(KnnConfig(str(trained[1]), trained[0], baselines=(str(tiny_run),), device="cpu", workers=0, threads=1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_first_layers_are_adapted_as_timm_does(channels: int) -> None:
    """One channel gets the sum; more get the three in turn, scaled by 3 / channels."""
    given = Encoder(EncoderPlan("resnet10-w4", "cifar")).backbone.state_dict()
    wanted = Encoder(EncoderPlan("resnet10-w4", "cifar", channels=channels)).backbone.state_dict()
    adapted = adapt_channels(given, wanted)
    torch.testing.assert_close(adapted["conv1.weight"], adapt_input_conv(channels, given["conv1.weight"]))
    assert all(torch.equal(adapted[name], given[name]) for name in given if name != "conv1.weight")


def test_weights_of_rgb_begin_a_run(trained: tuple[str, Path], tiny_run: Path, tmp_path: Path) -> None:
    """The log says how the first layer was adapted; mean and deviation are those of the images."""
    data, run = trained
    config = settings(data, tmp_path / "run", init_weights=str(tiny_run), arch=None, stem=None, knn_every=0)
    pretrain.run(dataclasses.replace(config, mean=None, std=None, view_size=None))
    found = load_weights(str(tmp_path / "run"))
    assert found.form == load_weights(str(run)).form
    assert found.encoder.plan.arch == "resnet10-w8"


@pytest.mark.parametrize("arch", ["timm:convnext_atto", "mobilenet_v3_small", "timm:vit_tiny_patch16_224"])
def test_networks_of_others_take_any_channels(arch: str) -> None:
    """Networks of torchvision and timm, convolutions and transformers."""
    encoder = Encoder(EncoderPlan(arch, image_size=32, channels=5))
    assert encoder.eval()(torch.zeros(1, 5, 32, 32)).shape == (1, 128)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"channels": "13"}, r"tif is 4 channels of uint16, expected 13 channels"),
        ({"channels": "0"}, "--channels 0: expected auto, rgb, or a number from 1 to 64"),
        ({"bands": ("_a.tif", "_b.tif")}, "no file ends in _a.tif or _b.tif"),
        ({"no_data": "none"}, "--no-data 'none': expected a number, or nan"),
        ({"teacher": "digits"}, "."),
    ],
)
def test_what_cannot_be(trained: tuple[str, Path], tmp_path: Path, more: dict[str, Any], words: str) -> None:
    """One line, before anything is written."""
    with pytest.raises(BadInputError, match=words):
        pretrain.run(settings(trained[0], tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


def test_rgb_has_three_numbers() -> None:
    """Of a set of RGB nothing else can be asked, whatever the types of the settings allow."""
    config = settings("digits", Path("run"))
    for changed in ({"mean": (0.5,)}, {"std": (0.5,) * 4}, {"mean": (2.0,) * 3}):
        with pytest.raises(BadInputError, match="expected three numbers"):
            pretrain.run(dataclasses.replace(config, **changed))
    assert asked_of(dataclasses.replace(config, mean=IMAGENET_MEAN, std=IMAGENET_STD, channels="3")).moments is None  # type: ignore[union-attr]
