"""`moco join`: a file that every command takes, in which each encoder keeps its features."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moco.cli import main
from moco.commands.export import run as export
from moco.commands.join import run
from moco.commands.knn import run as knn
from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.errors import BadInputError
from moco.evaluation import again, baselines, feature_whitening
from moco.evaluation.again import encode_networks
from moco.evaluation.config import KnnConfig
from moco.evaluation.feature_whitening import ROWS, FeatureWhitener
from moco.evaluation.features import Encoding, outputs
from moco.evaluation.frozen import load_encoder
from moco.evaluation.joining import backbone_of, join_at_random
from moco.interop.checkpoints import Weights, load_weights
from moco.interop.config import ExportConfig, JoinConfig
from moco.runtime.checkpoint import load_tensors, save_tensors

pytestmark = pytest.mark.usefixtures("few_digits")
CPU = ["--device", "cpu", "--threads", "1"]


@pytest.fixture
def two(tiny_run: Path, tmp_path: Path) -> list[str]:
    """A run, and the same network with other weights."""
    tensors, about = load_tensors(tiny_run / "encoder.safetensors")
    draw = torch.Generator().manual_seed(1)
    other = {
        name: value + 0.1 * torch.randn(value.shape, generator=draw) if name.endswith("conv1.weight") else value
        for name, value in tensors.items()
    }
    save_tensors(tmp_path / "other.safetensors", other, about)
    return [str(tiny_run), str(tmp_path / "other.safetensors")]


def test_the_command(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what each reaches alone and both reach together; other commands take the file as weights."""
    out = tmp_path / "both.safetensors"
    assert main(["join", "--weights", *two, "--data", "digits", "--out", str(out), *CPU, "--json"]) == 0
    stdout, said = capsys.readouterr()
    result = json.loads(stdout)
    for name, score in zip(two, result["alone"], strict=True):
        assert f"{name} at 16 pixels: kNN accuracy {score:.1f}%\n" in said
    assert f"joined: kNN accuracy {result['top1']:.1f}% of " in said
    assert f"{out}: {result['width']} numbers per image\n" in said
    verdict = "joining gains" if result["top1"] > max(result["alone"]) else "joining does not pay here: "
    assert verdict in said
    for command in (["knn"], ["linear", "--no-baseline"]):
        assert main([*command, "--weights", str(out), "--data", "digits", *CPU]) == 0
    found = load_encoder(out)
    z = found.embed(torch.zeros(2, 3, 20, 20, dtype=torch.uint8))
    assert z.shape == (2, result["width"])
    capsys.readouterr()
    assert main(["join", "--weights", *two, "--data", "digits", "--out", str(out), *CPU]) == 2
    assert capsys.readouterr().err == f"moco: error: --out {out} exists: give another name\n"
    with pytest.raises(SystemExit):
        main(["join", "--help"])
    train = ["pretrain", "continued", "--init-weights", str(out), "--data", "digits", "--out", str(tmp_path / "run")]
    assert main([*train, *CPU]) == 2
    assert "joins several networks, which moco does not train further: give one of them" in capsys.readouterr().err


def test_the_file_is_the_encoder(two: list[str], tmp_path: Path) -> None:
    """What is read back gives the features of each network: unit vectors behind each other if none is whitened."""
    config = JoinConfig(tuple(two), "digits", tmp_path / "both.safetensors", images=12, device="cpu", threads=1)
    result = run(config)
    read = load_weights(str(config.out))
    assert read.encoder.plan.arch == "joined"
    assert result["images"] == 12
    assert (result["whitens"], result["whitens_parts"]) == (False, [False, False])  # 12 images are too few to know
    images = (255 * torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))).to(torch.uint8)
    both = torch.as_tensor(load_encoder(config.out).embed(images))
    alone = [torch.as_tensor(load_encoder(name, features="plain").embed(images, unit=True)) for name in two]
    assert torch.allclose(both, torch.cat(alone, 1), atol=1e-4)


def test_random_weights_are_joined_likewise(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whitening does not pass for learning: the baseline's networks are whitened as those of the joined encoder."""
    monkeypatch.setattr(feature_whitening, "WORTH", -100.0)  # so that each network is whitened
    monkeypatch.setattr(feature_whitening, "_to_beat", lambda *_: -1.0)
    out, seen = tmp_path / "both.safetensors", list[Weights]()
    made = run(JoinConfig(tuple(two), "digits", out, device="cpu", threads=1))
    assert made["whitens_parts"] == [True, True] or made["whitens"]

    def note(*arguments: Any) -> Weights:
        seen.append(join_at_random(*arguments))
        return seen[-1]

    monkeypatch.setattr(baselines, "join_at_random", note)
    found = knn(KnnConfig(str(out), "digits", device="cpu", threads=1, precision="fp32"))
    if made["whitens_parts"] == [False, False]:
        assert not seen
        return
    (random,) = seen
    assert found["whitened"]
    backbone = backbone_of(random.encoder)
    rows = take_evenly(load("digits")["train"], JoinConfig.images)
    how = Encoding(16, random.mean, random.std, "plain", unit=False, precision="fp32")
    networks = encode_networks(random.encoder, rows, how)[0]
    for z, whitening in zip(torch.split(networks, backbone.widths, 1), backbone.whitening, strict=True):
        if isinstance(whitening, torch.nn.Linear):  # fitted to these features, so that their mean becomes 0
            assert whitening(z).mean(0).abs().max() < 1e-3 * whitening(z).std()
    assert any(isinstance(whitening, torch.nn.Linear) for whitening in backbone.whitening)


def test_whitening_a_joined_encoder(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`knn --whiten` fits to what the encoder gives, its parts whitened, whether features are kept or not."""
    out = tmp_path / "both.safetensors"
    run(JoinConfig(tuple(two), "digits", out, device="cpu", threads=1))
    encoder, how = load_weights(str(out)).encoder, Encoding(16, (0.0,) * 3, (1.0,) * 3)
    encoder.whitening = torch.nn.Identity()
    images = load("digits")["train"]
    whitener = FeatureWhitener.build(images, ROWS, how, 0.1)
    kept, fresh = (dataclasses.replace(whitener, keeps=keeps)(encoder) for keeps in (True, False))
    assert (kept is None) == (fresh is None)
    if kept is not None and fresh is not None:
        assert torch.allclose(kept.weight, fresh.weight, atol=1e-3)
        assert kept.weight.shape[1] == encoder.num_features
    assert main(["knn", "--weights", str(out), "--data", "digits", "--whiten", "--no-baseline", *CPU]) == 0


def test_without_labels(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is written, and it says that it cannot judge."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 9, 90)).save(folder / f"{number}.png")
    result = run(JoinConfig(tuple(two), str(folder), tmp_path / "both.safetensors", device="cpu", threads=1))
    assert (result["top1"], result["alone"], result["images"]) == (None, [], 6)
    assert "without labels, moco cannot tell whether joining pays" in capsys.readouterr().out
    assert load_encoder(tmp_path / "both.safetensors").embed([folder / "1.png"]).shape == (1, result["width"])


@pytest.mark.parametrize(
    ("out", "said"),
    [("both.pth", "expected a name that ends with .safetensors"), ("no/both.safetensors", "there is no folder")],
)
def test_a_name_that_cannot_be_written(two: list[str], tmp_path: Path, out: str, said: str) -> None:
    """It is refused before anything is encoded."""
    with pytest.raises(BadInputError, match=said):
        run(JoinConfig(tuple(two), "digits", tmp_path / out, device="cpu"))


@pytest.mark.parametrize("where", ["part", "arch", "tensor"])
def test_a_damaged_description(two: list[str], tmp_path: Path, where: str) -> None:
    """A file whose parts are not what it says is refused in one line."""
    out = tmp_path / "both.safetensors"
    run(JoinConfig(tuple(two), "digits", out, images=12, device="cpu", threads=1))
    tensors, about = load_tensors(out)
    if where == "part":
        about["encoder"]["parts"][0]["side"] = -1
    elif where == "arch":
        about["encoder"]["parts"][1]["arch"] = "../secret"
    else:
        tensors.pop(next(iter(tensors)))
    save_tensors(tmp_path / "bad.safetensors", tensors, about)
    with pytest.raises(BadInputError) as error:
        load_weights(str(tmp_path / "bad.safetensors"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["torchvision", "timm", "detectron2", "reference"])
def test_formats_of_one_network_are_refused(two: list[str], tmp_path: Path, form: str) -> None:
    """In one line that names those that hold several."""
    out = tmp_path / "both.safetensors"
    run(JoinConfig(tuple(two), "digits", out, images=12, device="cpu", threads=1))
    with pytest.raises(BadInputError, match=r"joins several networks, .* give --format onnx or safetensors"):
        export(ExportConfig(str(out), form, tmp_path / "x.pth"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_onnx(two: list[str], tmp_path: Path) -> None:
    """The exported network has the same features."""
    out = tmp_path / "both.safetensors"
    shutil.copyfile(two[1], tmp_path / "copy.safetensors")
    run(JoinConfig(tuple(two), "digits", out, image_sizes=(16, 24), device="cpu", threads=1))
    assert main(["export", "--weights", str(out), "--format", "onnx", "--out", str(tmp_path / "both.onnx")]) == 0


@pytest.mark.parametrize("side", [16, 100])
def test_images_are_encoded_once(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: int
) -> None:
    """An evaluation of the file reads what was computed to make it; its figures are the same as without that."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "kept"))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    draw, photos = np.random.default_rng(0), tmp_path / "photos"
    for i in range(60):
        folder = photos / ("test" if i % 3 == 0 else "train") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 200, (side, side, 3), dtype=np.uint8) + np.uint8(20 * (i % 2))
        Image.fromarray(pixels).save(folder / f"{i}.png")
    encoded = list[int]()

    def count(module: torch.nn.Module, width: int, images: Images, *more: Any, **named: Any) -> torch.Tensor:
        encoded.append(len(images))
        return outputs(module, width, images, *more, **named)

    monkeypatch.setattr("moco.evaluation.again.outputs", count)
    out = str(tmp_path / "both.safetensors")
    data = ["--data", str(photos), *CPU, "--workers", "0", "--json"]
    assert main(["join", "--weights", *two, "--out", out, *data]) == 0
    assert encoded == [40]
    figures = list[dict[str, Any]]()
    for expected in ([20], []):
        encoded.clear()
        capsys.readouterr()
        assert main(["knn", "--weights", out, "--no-baseline", *data]) == 0
        assert encoded == expected
        figures.append(json.loads(capsys.readouterr().out))
    shutil.rmtree(tmp_path / "kept")
    encoder = load_encoder(out)
    paths = sorted((photos / "test").glob("*/*.png"))
    by_hand = torch.as_tensor(encoder.embed(paths, unit=True))
    weights, images = load_weights(out), load(str(photos))["test"]
    how = Encoding(weights.encoder.plan.image_size, weights.mean, weights.std)
    found = again.encode_again(weights.encoder, images, how)
    assert torch.allclose(found, by_hand, atol=1e-5)
    assert figures[0]["top1"] == figures[1]["top1"]
