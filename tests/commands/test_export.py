"""Our encoder in torchvision, timm, detectron2, onnxruntime, a Hugging Face folder and the MoCo authors' format."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from moco.cli import main
from moco.commands.export import photographs, run
from moco.commands.pretrain import run as pretrain
from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.core.networks import build_backbone
from moco.errors import BadInputError
from moco.evaluation.frozen import load_encoder
from moco.interop import targets
from moco.interop.checkpoints import Weights, load_weights
from moco.interop.config import ExportConfig, Format
from moco.interop.detectron2 import convert_tensors, describe_settings
from moco.interop.metadata import encoder_metadata
from moco.interop.model_card import _inert
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import save_tensors
from tests.slow import slow

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAN = EncoderPlan("resnet18", image_size=32)
TOLERANCE = 1e-4
"""Of the largest feature."""


@torch.no_grad()
def encoder(plan: EncoderPlan, seed: int = 0) -> Encoder:
    """Random weights, and random statistics too, as after training."""
    torch.manual_seed(seed)
    made = Encoder(plan)
    for name, value in made.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return made.eval()


def saved(path: Path, plan: EncoderPlan) -> Path:
    """An encoder file as runs write it."""
    save_tensors(path, encoder_tensors(encoder(plan)), {**encoder_metadata(plan, MEAN, STD, 7), "kind": "encoder"})
    return path


Nets = Callable[[EncoderPlan], Path]
"""The encoder file of a network with random weights."""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Nets:
    """Encoder files; each is made once."""
    return cache(lambda plan: saved(tmp_path_factory.mktemp("weights") / "encoder.safetensors", plan))


@pytest.fixture(scope="module")
def weights(nets: Nets) -> Path:
    """A ResNet-18 with torchvision's stem."""
    return nets(PLAN)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Photographs at 32 pixels, not the ones that the command looks at."""
    crops = [torch.from_numpy(image[100:228, 200:328].copy()) for image in load_sample_images().images]
    pixels = torch.stack(crops).permute(0, 3, 1, 2).float() / 255
    return nn.functional.interpolate(torch.cat([pixels, pixels.flip(3)])[:3], (32, 32), mode="bilinear") * 4 - 2


@torch.no_grad()
def ours(path: Path, images: Tensor) -> Tensor:
    """The features that the others must have."""
    features: Tensor = load_weights(str(path)).encoder.backbone.eval()(images)
    return features


def close(found: Tensor, expected: Tensor) -> bool:
    """Within the tolerance, of something that is not nothing."""
    largest = float(expected.abs().max())
    return largest > 0.1 and float((found - expected).abs().max()) <= TOLERANCE * largest


def export(weights: Path, kind: Format, out: Path) -> dict[str, Any]:
    """Run the command."""
    return run(ExportConfig(str(weights), kind, out))


# --- round trips ----------------------------------------------------------------------------------------------------


def test_torchvision(weights: Path, tmp_path: Path, images: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    """Loads with strict=False, where only the classifier is missing."""
    result = export(weights, "torchvision", tmp_path / "new" / "net.pth")
    model = torchvision.models.get_model("resnet18", weights=None)
    missing, unexpected = model.load_state_dict(torch.load(result["out"], weights_only=True), strict=False)
    assert (list(missing), list(unexpected)) == (["fc.weight", "fc.bias"], [])
    model.set_submodule("fc", nn.Identity())
    with torch.no_grad():
        assert close(model.eval()(images), ours(weights, images))
    assert 0 <= result["largest_difference"] <= TOLERANCE
    assert result["images"] == 10
    printed = capsys.readouterr().out
    assert "largest difference" in printed
    assert "strict=False" in printed
    assert str(MEAN) in printed


@pytest.mark.parametrize(
    "arch", [pytest.param("resnext50-32x8d", marks=pytest.mark.slow), "mobilenet_v2", "mnasnet0_5"]
)
def test_other_nets_that_torchvision_has(nets: Nets, tmp_path: Path, arch: str) -> None:
    """By its class where it has no name for it; and what is no ResNet."""
    path = nets(EncoderPlan(arch, image_size=32))
    assert export(path, "torchvision", tmp_path / "net.pth")["largest_difference"] <= TOLERANCE


@pytest.mark.parametrize("arch", ["resnet18", "resnext50-32x8d"])
def test_timm(nets: Nets, tmp_path: Path, images: Tensor, arch: str) -> None:
    """Loads strictly into timm's own model, which it names."""
    path = nets(EncoderPlan(arch, image_size=32))
    result = export(path, "timm", tmp_path / "net.pth")
    name = {"resnet18": "resnet18", "resnext50-32x8d": "resnext50_32x4d"}[arch]
    more: dict[str, Any] = {"base_width": 8} if arch == "resnext50-32x8d" else {}
    with torch.device("meta"):  # where no weight is drawn
        model = timm.create_model(name, num_classes=0, **more)
    model.load_state_dict(torch.load(result["out"], weights_only=True), assign=True)
    with torch.no_grad():
        assert close(model.eval()(images), ours(path, images))
    assert f"create_model('{name}'" in result["told"]


def test_onnx(tmp_path: Path, images: Tensor) -> None:
    """Any net, any batch size, and its images' form in the metadata; no file of this machine is named."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = saved(tmp_path / "encoder.safetensors", EncoderPlan("resnet10-w16", "cifar", image_size=32))
    result = export(path, "onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(result["out"], providers=["CPUExecutionProvider"])
    expected = ours(path, images)
    for count in (1, 2, 3):
        (found,) = session.run(None, {"images": images[:count].numpy()})
        assert close(torch.from_numpy(found), expected[:count])
    described = session.get_modelmeta().custom_metadata_map
    assert (described["mean"], described["std"], described["image_size"]) == (str(MEAN), str(STD), "32")
    assert str(Path(torch.__file__).parent.parent).encode() not in Path(result["out"]).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("net")] == ["net.onnx"]


@pytest.mark.parametrize(("arch", "size"), [slow("timm:test_efficientnet", 32), ("timm:test_vit", 160)])
def test_onnx_of_timms_networks(tmp_path: Path, arch: str, size: int) -> None:
    """Compared there by the command itself."""
    pytest.importorskip("onnxscript")
    path = saved(tmp_path / "encoder.safetensors", EncoderPlan(arch, image_size=size))
    assert export(path, "onnx", tmp_path / "net.onnx")["largest_difference"] < 1e-3
    assert (tmp_path / "net.onnx").is_file()


def test_where_features_cannot_be_whitened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other libraries' formats have no place for it, which is said; ONNX, checked by its own runtime, has."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    config = recipe(
        "quick", data="digits", out=tmp_path / "run", arch="resnet10-w4", stem="imagenet", image_size=16, batch_size=16,
        max_steps=2, knn_every=0, workers=0, threads=1, device="cpu", precision="fp32",
    )  # fmt: skip
    pretrain(config)
    capsys.readouterr()
    export(config.out, "safetensors", tmp_path / "folder")
    said = "cannot whiten features: its kNN accuracy is that of moco knn --features plain. --format onnx can"
    assert said in capsys.readouterr().out
    export(config.out, "onnx", tmp_path / "net.onnx")
    assert "cannot whiten" not in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, 16, 16)
    expected = load_encoder(config.out)(x)
    assert np.abs(session.run(["features"], {"images": x.numpy()})[0] - expected.numpy()).max() < 1e-3


def test_a_folder_for_timm(weights: Path, tmp_path: Path, images: Tensor) -> None:
    """Timm takes it as it stands, strictly; moco too."""
    export(weights, "safetensors", tmp_path / "net")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    with torch.no_grad():
        assert close(model.eval()(images), ours(weights, images))
    assert (tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])) == (MEAN, STD)
    again = load_weights(str(tmp_path / "net"))
    assert (again.mean, again.std, again.step, again.encoder.plan) == (MEAN, STD, 7, PLAN)
    with pytest.raises(BadInputError, match="no projection head"):
        again.encoder(images)


def test_a_folder_for_any_net(tiny_run: Path, tmp_path: Path) -> None:
    """Names as torchvision's; the card says what was trained, on what, and what was measured."""
    export(tiny_run, "safetensors", tmp_path / "net")
    state = load_file(tmp_path / "net" / "model.safetensors")
    net, _ = build_backbone("resnet10-w8", "cifar", 16)
    net.load_state_dict(state)
    again = load_weights(str(tmp_path / "net"))
    views = photographs(again)
    with torch.no_grad():
        assert torch.equal(again.encoder.backbone.eval()(views), net.eval()(views))
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["moco"]["encoder"]["arch"] == "resnet10-w8"
    assert "architecture" not in config
    card = (tmp_path / "net" / "README.md").read_text()
    for row in ("| data | digits |", "| queue&#95;size | 64 |", "| steps | 2 |", "| loss while training | "):
        assert row in card


def test_the_card_has_no_figures_of_later_steps(tiny_run: Path, tmp_path: Path) -> None:
    """A run may have kept an earlier encoder than its last (`--keep best`)."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "knn_top1": 61.5}\n{"step": 3, "knn_top1": 12.5}\n')
    export(run, "safetensors", tmp_path / "net")
    card = (tmp_path / "net" / "README.md").read_text(encoding="utf-8")
    assert "| knn&#95;top1 while training | 61.5 |" in card


@pytest.mark.parametrize(
    ("share", "words"),
    [(100.0, ", on images it was trained on"), (0.0, ", on images held out from training"), (None, ""), ([], "")],
)
def test_the_card_says_what_was_measured_on_what(tiny_run: Path, tmp_path: Path, share: Any, words: str) -> None:
    """And never calls images held out that were trained on; beside each accuracy stand the baselines'."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    line = {"step": 2, "knn_top1": 41.5, "knn_trained_on": share}
    (run / "metrics.jsonl").write_text(json.dumps({key: value for key, value in line.items() if value is not None}))
    result = {
        "top1": 38.7, "data": "photos", "measured_on": "a tenth of train, which the encoder was trained on",
        "baselines": {"pixels": {"top1": 41.7}, "timm:x": {"top1": 83.1}, "odd": 5},
    }  # fmt: skip
    (run / "evaluations").mkdir(exist_ok=True)
    (run / "evaluations" / "knn.json").write_text(json.dumps(result))
    export(run, "safetensors", tmp_path / "net")
    card = (tmp_path / "net" / "README.md").read_text().replace("&#95;", "_")
    where = "knn top1 on photos: a tenth of the training images, which the encoder was trained on"
    assert f"| knn_top1 while training{words} | 41.5 |" in card
    assert f"| {where} | 38.7 |" in card
    assert f"| {where}, raw pixels | 41.7 |" in card
    assert f"| {where}, timm:x | 83.1 |" in card
    assert ("held out" in card) == (share == 0)


def test_the_references_format(tmp_path: Path, images: Tensor) -> None:
    """Its linear evaluation takes f_q; from a checkpoint, its training takes f_k and the queue too."""
    plan = EncoderPlan("resnet18", "imagenet", "mlp", 128, None, 32)
    f_q, f_k = encoder(plan, 1), encoder(plan, 2)
    queue = nn.functional.normalize(torch.randn(48, 128))
    tensors = {f"f_q.{name}": value for name, value in f_q.state_dict().items()}
    tensors |= {f"f_k.{name}": value for name, value in f_k.state_dict().items()}
    tensors |= {"dictionary.keys": queue, "dictionary._extra_state": torch.tensor([3, 16])}
    save_tensors(tmp_path / "1.safetensors", tensors, {**encoder_metadata(plan, MEAN, STD, 7), "kind": "checkpoint"})
    result = export(tmp_path / "1.safetensors", "reference", tmp_path / "net.pth.tar")
    assert "main_moco.py --resume" in result["told"]

    content = torch.load(tmp_path / "net.pth.tar", weights_only=True)
    state = content["state_dict"]
    model = torchvision.models.get_model("resnet18", weights=None)
    prefix = "module.encoder_q."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    assert {name for name in own if name.startswith("fc")} == {"fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"}
    model.load_state_dict({name: value for name, value in own.items() if not name.startswith("fc")}, strict=False)
    model.set_submodule("fc", nn.Identity())
    with torch.no_grad():
        assert close(model.eval()(images), f_q.backbone(images))
    assert torch.equal(
        state["module.encoder_k.layer1.0.conv1.weight"], f_k.state_dict()["backbone.layer1.0.conv1.weight"]
    )
    assert torch.equal(state["module.queue"][:, 5], queue[5])
    assert state["module.queue_ptr"].tolist() == [16]
    both = [nn.Parameter(torch.zeros(1)) for _ in (*f_q.parameters(), *f_k.parameters())]
    torch.optim.SGD(both, lr=1.0, momentum=0.9).load_state_dict(content["optimizer"])

    again = load_weights(str(tmp_path / "net.pth.tar"))
    assert again.momentum is not None
    assert again.queue is not None
    assert all(torch.equal(again.momentum[name], value) for name, value in encoder_tensors(f_k).items())
    assert torch.equal(again.queue, queue)
    assert again.pointer == 16


def test_the_references_format_of_f_q_alone(weights: Path, tmp_path: Path) -> None:
    """It says so."""
    assert "f_q only" in export(weights, "reference", tmp_path / "net.pth.tar")["told"]
    assert set(torch.load(tmp_path / "net.pth.tar", weights_only=True)) == {"epoch", "arch", "state_dict", "moco"}


# --- detectron2 -----------------------------------------------------------------------------------------------------


def detectron2_names(blocks: tuple[int, ...], *, bottleneck: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of detectron2's ResNet and their shapes, by its modules.

    BasicStem has conv1; a block has a shortcut where the number of channels changes or it strides, and conv1, conv2,
    for bottlenecks conv3; stages are res2 to res5; every convolution carries its batch normalisation as `norm`.
    """
    names: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, inputs: int, kernel: int) -> None:
        names[f"{name}.weight"] = (out, inputs, kernel, kernel)
        names.update({f"{name}.norm.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})

    convolution("stem.conv1", 64, 3, 7)
    channels = 64
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        out = inner * (4 if bottleneck else 1)
        for block in range(count):
            name = f"res{stage + 2}.{block}"
            if channels != out or (block == 0 and stage > 0):
                convolution(f"{name}.shortcut", out, channels, 1)
            convolution(f"{name}.conv1", inner, channels, 1 if bottleneck else 3)
            convolution(f"{name}.conv2", inner if bottleneck else out, inner, 3)
            if bottleneck:
                convolution(f"{name}.conv3", out, inner, 1)
            channels = out
    return names


@pytest.mark.parametrize(("arch", "blocks"), [("resnet50", (3, 4, 6, 3)), ("resnet18", (2, 2, 2, 2))])
def test_detectron2s_names(arch: str, blocks: tuple[int, ...]) -> None:
    """Every tensor of its ResNet is there, with its shape, and no other but the counters of batches."""
    found = convert_tensors(encoder_tensors(Encoder(EncoderPlan(arch))))
    shapes = {name: value.shape for name, value in found.items() if not name.endswith("num_batches_tracked")}
    assert shapes == detectron2_names(blocks, bottleneck=arch == "resnet50")


def test_detectron2(weights: Path, tmp_path: Path) -> None:
    """A pickle of arrays, the right one under each name, with what its loader looks for beside them."""
    result = export(weights, "detectron2", tmp_path / "net.pkl")
    with (tmp_path / "net.pkl").open("rb") as file:
        content = pickle.load(file)  # noqa: S301 our own, from the line above
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    state = load_weights(str(weights)).encoder.backbone.state_dict()
    for theirs, name in {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.1.conv2.weight": "layer1.1.conv2.weight",
        "res3.0.shortcut.weight": "layer2.0.downsample.0.weight",
        "res3.0.shortcut.norm.bias": "layer2.0.downsample.1.bias",
        "res5.1.conv1.norm.running_mean": "layer4.1.bn1.running_mean",
    }.items():
        assert np.array_equal(content["model"][theirs], state[name].numpy())
    assert result["largest_difference"] is None
    assert "not on PyPI" in result["checked_with"]


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet50", "DEPTH 50; MODEL.RESNETS.NUM_GROUPS 1; MODEL.RESNETS.WIDTH_PER_GROUP 64"),
        ("resnext101_32x8d", "DEPTH 101; MODEL.RESNETS.NUM_GROUPS 32; MODEL.RESNETS.WIDTH_PER_GROUP 8"),
        (
            "resnet50-2x",
            "WIDTH_PER_GROUP 128; MODEL.RESNETS.STEM_OUT_CHANNELS 128; MODEL.RESNETS.RES2_OUT_CHANNELS 512",
        ),
    ],
)
def test_detectron2s_settings(arch: str, message: str) -> None:
    """Depth, groups and widths; the stride in the 3x3 convolution, as torchvision has it; pixels in [0, 255]."""
    with torch.device("meta"):
        net = Weights(Encoder(EncoderPlan(arch)), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = describe_settings(net)
    assert message in found
    assert "STRIDE_IN_1X1 False" in found
    assert "PIXEL_MEAN [123.675, 116.28, 103.53]; MODEL.PIXEL_STD [58.395, 57.12, 57.375]" in found


@pytest.mark.parametrize(
    ("arch", "stem", "kind"),
    [
        ("resnet18", "imagenet", "torchvision"), ("resnet18", "imagenet", "reference"),
        ("mobilenet_v2", "imagenet", "torchvision"), ("timm:test_efficientnet", "imagenet", "timm"),
        ("timm:test_vit", "imagenet", "timm"), ("timm:test_vit", "imagenet", "safetensors"),
        ("resnet18-w16", "cifar-padded", "safetensors"), ("resnet18-w16", "cifar-linear", "safetensors"),
    ],
)  # fmt: skip
def test_what_is_written_is_read_back(nets: Nets, tmp_path: Path, arch: str, stem: Any, kind: Format) -> None:
    """By its name alone, with mean and deviation: what other libraries do not look at is in the file."""
    before = nets(EncoderPlan(arch, stem, image_size=48))
    export(before, kind, tmp_path / "net")
    one, other = load_weights(str(before)), load_weights(str(tmp_path / "net"))
    assert (other.encoder.plan.arch, other.encoder.plan.stem, other.encoder.plan.image_size) == (arch, stem, 48)
    assert (other.mean, other.std) == (one.mean, one.std)
    x = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        difference = one.encoder.backbone.eval()(x) - other.encoder.backbone.eval()(x)
    assert difference.abs().max() <= 1e-5


def test_features_that_explode_are_not_exported(tmp_path: Path) -> None:
    """A share of them is no measure."""
    plan = EncoderPlan("resnet18-w16", image_size=32)
    tensors = encoder_tensors(encoder(plan))
    for name in ("layer4.1.bn2.weight", "layer4.1.bn2.bias"):
        tensors[name] = torch.full_like(tensors[name], 1e9)
    described = {**encoder_metadata(plan, MEAN, STD, 7), "kind": "encoder"}
    save_tensors(tmp_path / "encoder.safetensors", tensors, described)
    with pytest.raises(BadInputError, match=r"features of photographs are up to .*diverged"):
        export(tmp_path / "encoder.safetensors", "safetensors", tmp_path / "net")
    assert not (tmp_path / "net").exists()


# --- what cannot be written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torchvision", "timm", "detectron2", "reference"])
@pytest.mark.parametrize(
    ("arch", "stem", "message"), [("resnet18", "cifar", "3x3 stem"), ("resnet18-w16", "imagenet", "base width 16")]
)
def test_nets_that_the_target_does_not_have(
    nets: Nets, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, arch: str, stem: Any, message: str
) -> None:
    """Exit code 2, and what to give instead; nothing is written."""
    path, out = nets(EncoderPlan(arch, stem, image_size=32)), tmp_path / "net"
    assert main(["export", "--weights", str(path), "--format", kind, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "onnx or safetensors" in error
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_the_reference_does_not_have(tmp_path: Path) -> None:
    """Three layers with norms are no `fc` of v1 or v2."""
    path = saved(tmp_path / "encoder.safetensors", EncoderPlan("resnet18", head="mlp-bn", image_size=32))
    with pytest.raises(BadInputError, match=r"has no projection head with batch normalisation \(mlp-bn\): .*onnx"):
        export(path, "reference", tmp_path / "net")


@pytest.mark.parametrize("kind", ["timm", "detectron2"])
def test_what_is_no_resnet(nets: Nets, tmp_path: Path, kind: Format) -> None:
    """Timm names the tensors of other nets in its own way."""
    path = nets(EncoderPlan("mobilenet_v2", image_size=32))
    with pytest.raises(BadInputError, match=r"for ResNets.*mobilenet_v2.*onnx"):
        export(path, kind, tmp_path / "net")


def test_what_exists_is_not_overwritten(weights: Path, tmp_path: Path) -> None:
    """Neither file nor folder."""
    (tmp_path / "net").mkdir()
    with pytest.raises(BadInputError, match=r"--out .*net exists"):
        export(weights, "torchvision", tmp_path / "net")


def test_a_package_that_is_not_there(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to install it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"--format onnx needs onnx and onnxscript and onnxruntime: pip install"):
        export(weights, "onnx", tmp_path / "net.onnx")


def test_a_file_with_other_features_is_not_kept(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: one weight is changed on the way."""
    honest = targets.backbone_tensors

    def changed(weights: Weights) -> dict[str, Tensor]:
        tensors = {name: value.clone() for name, value in honest(weights).items()}
        tensors["layer4.1.bn2.bias"][3] += 0.01
        return tensors

    monkeypatch.setattr(targets, "backbone_tensors", changed)
    with pytest.raises(RuntimeError, match=r"differ from moco.s by 0\.0"):
        export(weights, "torchvision", tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
@pytest.mark.parametrize("name", ["torchvision", "reference", "detectron2", "safetensors"])
def test_a_disk_that_is_full(weights: Path, tmp_path: Path, name: Format) -> None:
    """An OSError that says what could not be written, nothing of which is left."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write \d+ bytes"):
            export(weights, name, tmp_path / "net")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_text_in_the_card_is_inert() -> None:
    """Names of files can be anything."""
    text = _inert("<img src=x onerror=alert(1)>\n| `a` [b](c)")
    assert not set(text) & set("<>|`[]()\n")
