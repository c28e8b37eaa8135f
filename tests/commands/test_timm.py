"""A network of timm in every command: from published weights or from scratch, to figures, files and pages."""

import json
import shutil
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moco.cli import main
from moco.commands import export
from moco.commands.export import photographs
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.interop.config import ExportConfig, Format
from moco.transfer.backbones import resnet_of

CPU = ["--device", "cpu", "--threads", "1", "--precision", "fp32"]
RUN = ["--data", "digits", "--max-steps", "2", "--batch-size", "16", "--knn-every", "0", "--workers", "0", *CPU]

pytestmark = pytest.mark.usefixtures("few_digits")


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are not checked: a flag that must be given has a placeholder."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a network of timm in a file."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return f"timm:test_efficientnet@{path}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, lite: str, few_digits: None) -> Path:
    """A run of two steps that continued them."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        command = [
            "pretrain",
            "v2",
            "--init-weights",
            lite,
            "--image-size",
            "32",
            "--queue-size",
            "64",
            "--out",
            str(out),
        ]
        assert main([*command, *RUN]) == 0
    return out


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The object that a command ends with."""
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with exit code 2."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


EVALUATIONS = {
    "knn": ["--no-baseline"],
    "linear": ["--penalties", "0.1", "--no-baseline"],
    "lowshot": ["--labels", "2", "--draws", "1", "--finetune-steps", "1", "--no-baseline"],
    "finetune": ["--max-steps", "1", "--batch-size", "16"],
}


@pytest.mark.parametrize("command", EVALUATIONS)
def test_evaluations(command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run; and beside random weights of the same network."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    found = run_json([command, "--weights", str(own), "--data", "digits", *EVALUATIONS[command], *CPU], capsys)
    assert found["weights"] == str(own)
    assert list((own / "evaluations").glob(f"{command}*.json"))


def test_knn_of_published_weights_and_random_ones(lite: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the size that the user gives; the baseline is the same network, of which `--like` takes the form too."""
    command = ["knn", "--data", "digits", "--image-size", "32", *CPU]
    found = run_json([*command, "--weights", lite], capsys)
    random = run_json([*command, "--weights", "random", "--like", lite], capsys)
    assert found["baselines"]["random"]["top1"] == random["top1"]
    assert found["top1"] != random["top1"]
    assert run_json([*command, "--weights", "random", "--arch", "timm:test_vit"], capsys)["top1"] > 10


def test_embed(run: Path, lite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The backbone's features, or the head's of a run that has one."""
    for weights, output, width in ((lite, "backbone", 256), (str(run), "head", 128)):
        out = tmp_path / f"{width}.npz"
        command = ["embed", "--weights", weights, "--data", "digits", "--image-size", "32", "--split", "test"]
        assert run_json([*command, "--features", output, "--out", str(out), *CPU], capsys)["width"] == width
        assert np.load(out)["features"].shape == (120, width)
    error = refused(
        ["embed", "--weights", lite, "--data", "digits", "--features", "head", "--out", str(out), *CPU], capsys
    )
    assert "no projection head" in error


def test_resume_and_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run is left alone, and its page is written."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    assert run_json(["resume", str(own)], capsys)["already_done"]
    short = ["--map-images", "40", "--map-seconds", "0.1", "--device", "cpu", "--threads", "1"]
    assert main(["report", str(own), *short]) == 0
    page = (own / "report.html").read_text(encoding="utf-8")
    assert "timm:test_efficientnet" in page
    assert "timm:test_efficientnet@" in page  # what it started from


def test_continuing_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of such a network is a start as any other; its head is taken where it fits."""
    out = tmp_path / "second"
    assert main(["pretrain", "v2", "--init-weights", str(run), "--queue-size", "64", "--out", str(out), *RUN]) == 0
    said = capsys.readouterr().out
    assert f"f_q is that of {run} (moco); network, image size, mean and std come from these weights" in said
    assert load_weights(str(out)).encoder.plan.arch == "timm:test_efficientnet"


def test_transfer_stands_on_resnets(lite: str, tmp_path: Path) -> None:
    """One line says so."""
    with pytest.raises(BadInputError, match="the weights are a timm:test_efficientnet, and the models of moco tran"):
        resnet_of(load_weights(lite).encoder)


# --- export ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def features(model: nn.Module, weights: str) -> tuple[Tensor, Tensor]:
    """What the model makes of photographs, and what the weights do."""
    found = load_weights(weights)
    images = photographs(found)
    return model.eval()(images), found.encoder.backbone.eval()(images)


def vit_at(size: int, path: Path, arch: str = "timm:test_vit") -> str:
    """An encoder file of a transformer for images of another size than timm's, as runs write it."""
    from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
    from moco.interop.metadata import encoder_metadata
    from moco.runtime.checkpoint import save_tensors

    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan(arch, image_size=size))
    described = encoder_metadata(encoder.plan, (0.5,) * 3, (0.5,) * 3, 0)
    save_tensors(path, encoder_tensors(encoder), {**described, "kind": "encoder"})
    return str(path)


@pytest.mark.parametrize("kind", ["run", "published", "vit"])
def test_to_timm(kind: str, run: Path, lite: str, tmp_path: Path) -> None:
    """A file and a folder that timm's own loading takes, as the command says."""
    weights = {"run": str(run), "published": lite, "vit": ""}[kind] or vit_at(64, tmp_path / "encoder.safetensors")
    found = export.run(ExportConfig(weights, "timm", tmp_path / "net.pth"))
    name, options = (
        ("test_vit", {"dynamic_img_size": True, "img_size": 160}) if kind == "vit" else ("test_efficientnet", {})
    )
    more = "".join(f", {key}={value}" for key, value in options.items())
    assert f"timm.create_model('{name}'{more}, num_classes=0, checkpoint_path=F)" in found["told"]
    model = timm.create_model(name, num_classes=0, checkpoint_path=str(tmp_path / "net.pth"), **options)  # type: ignore[arg-type]
    torch.testing.assert_close(*features(model, weights))

    folder = tmp_path / "net"
    export.run(ExportConfig(weights, "safetensors", folder))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    torch.testing.assert_close(*features(model, weights))
    again = load_weights(str(folder))
    assert again.encoder.plan.arch == f"timm:{name}"
    assert again.mean == load_weights(weights).mean
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"timm:{name}" in card
    assert "First layers" not in card


def test_our_own_transformer_to_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a file, by the call that the command prints, and as a folder; and its features from it by `embed`."""
    weights = vit_at(32, tmp_path / "encoder.safetensors", "vit-tiny-8")
    told = str(export.run(ExportConfig(weights, "timm", tmp_path / "net.pth"))["told"])
    options = "img_size=32, patch_size=8, embed_dim=192, depth=12, num_heads=3, dynamic_img_size=True"
    assert f"timm.create_model('vit_tiny_patch16_224', {options}, num_classes=0, checkpoint_path=F)" in told
    sizes = {"patch_size": 8, "embed_dim": 192, "depth": 12, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, dynamic_img_size=True, **sizes)  # type: ignore[arg-type]
    model.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    torch.testing.assert_close(*features(model, weights))

    export.run(ExportConfig(weights, "safetensors", tmp_path / "net"))
    model = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    torch.testing.assert_close(*features(model, weights))
    assert load_weights(str(tmp_path / "net")).encoder.plan.arch == "vit-tiny-8"
    command = ["embed", "--weights", weights, "--data", "digits", "--split", "test", "--out", str(tmp_path / "e.npz")]
    capsys.readouterr()
    assert run_json([*command, *CPU], capsys)["width"] == 192


def test_what_onnx_cannot_express(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is one line, and nothing is kept."""
    pytest.importorskip("onnxscript")

    def unable(*_: Any, **__: Any) -> None:
        raise torch.onnx.OnnxExporterError("no such operation\nin many lines") from ValueError("aten.roll\nhere")

    monkeypatch.setattr(torch.onnx, "export", unable)
    error = refused(["export", "--weights", str(run), "--format", "onnx", "--out", str(tmp_path / "net.onnx")], capsys)
    assert "--format onnx cannot express this timm:test_efficientnet (aten.roll): give --format safetensors" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torchvision", "has no timm:test_efficientnet: give --format timm, onnx or safetensors"),
        ("detectron2", "is for ResNets, and this is timm:test_efficientnet"),
        ("reference", "is for ResNets, and this is timm:test_efficientnet"),
    ],
)
def test_formats_that_do_not_have_it(
    kind: Format, message: str, lite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each."""
    assert message in refused(["export", "--weights", lite, "--format", kind, "--out", str(tmp_path / "net")], capsys)
    assert not list(tmp_path.iterdir())


# --- from the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "timm:test_vi"], "--weights timm:test_vi: timm"),
        (["--weights", "timm:test_vit@gone.safetensors"], "there is no file gone.safetensors"),
        (["--weights", "random", "--arch", "timm:test_vi", "--image-size", "32"], "did you mean timm:test_vit"),
        (["--weights", "random", "--arch", "timm:test_vit", "--image-size", "60"], "give --image-size 64"),
        (
            ["--weights", "random", "--arch", "timm:test_vit", "--stem", "cifar", "--image-size", "64"],
            "--stem cifar is for",
        ),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2."""
    assert message in refused(["knn", *arguments, "--data", "digits", *CPU], capsys)
