"""The monitor: by which k, beside what, and of which images its accuracy is."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from PIL import Image as PillowImage

from moco.cli import main
from moco.commands.embed import run as embed
from moco.commands.export import run as export
from moco.commands.knn import run as knn
from moco.commands.pretrain import build_monitor, build_whitener
from moco.commands.pretrain import run as pretrain
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import ArrayImages, Images, Split
from moco.data.splits import monitor_split
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig, KnnConfig
from moco.evaluation.feature_whitening import FeatureWhitener, choose_whitening
from moco.evaluation.features import Encoding, encode, encode_grids
from moco.evaluation.frozen import load_encoder
from moco.evaluation.knn import choose_k
from moco.evaluation.session import labels_of
from moco.interop.checkpoints import load_weights
from moco.interop.config import ExportConfig
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import recipe
from moco.runtime.configfile import from_json, to_json
from moco.runtime.fields import require
from tests import oracles

pytestmark = pytest.mark.usefixtures("few_digits")
CONFIG = recipe("quick", data="digits", out=Path("run"), image_size=16, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=16))


def centred(images: Images) -> Any:
    """Raw pixels of unit length, less their mean, by torchvision and numpy."""
    pixels = torch.stack([images[row] for row in range(len(images))]).float() / 255
    large = reference.resize(pixels, [16, 16], antialias=True).flatten(1).double().numpy()
    large -= large.mean(1, keepdims=True)
    return large / np.linalg.norm(large, axis=1, keepdims=True)


def test_figures_beside_the_accuracy(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The k that is best on its bank, or the one that is given; raw pixels by the same protocol, computed once."""
    splits: dict[Split, Images] = {"train": take_evenly(load("digits")["train"], 400)}
    bank, queries = monitor_split(splits)
    config = dataclasses.replace(CONFIG, knn_images=5 * len(queries), knn_k=20)
    monitor = build_monitor(config, {**splits, "val": queries, "train": bank})
    rows = np.linspace(0, len(bank) - 1, 5 * len(queries)).astype(int)
    features = (centred(bank)[rows], labels_of(bank)[rows], centred(queries), labels_of(queries))
    found = monitor(encoder)
    assert (found["knn_k"], found["knn_queries"], found["knn_trained_on"]) == (20, 40, 0)
    assert found["knn_pixels"] == pytest.approx(oracles.weighted_knn(*features, 20, 0.1, 10)[0], abs=1e-3)
    monkeypatch.setattr("moco.evaluation.pixels.RawPixels.forward", None)
    assert monitor(encoder) == found

    monkeypatch.undo()
    chosen = build_monitor(dataclasses.replace(CONFIG, knn_k=None), splits)(encoder)
    how = Encoding(16, require(CONFIG.mean), require(CONFIG.std))
    k = choose_k(encode(encoder, bank, how), labels_of(bank), temperature=0.1, classes=10)
    assert chosen["knn_k"] == k
    assert chosen["knn_top1"] >= build_monitor(dataclasses.replace(CONFIG, knn_k=200), splits)(encoder)["knn_top1"]


@pytest.mark.parametrize(
    ("names", "share"), [(("train",), 100), (("train", "test"), 100), (("train", "val", "test"), 0)]
)
def test_a_tenth_of_train_is_trained_on(encoder: Encoder, names: tuple[Split, ...], share: float) -> None:
    """Also where there is a test split, at which the monitor does not look."""
    digits = load("digits")
    every: dict[Split, Images] = {"train": digits["train"], "val": digits["test"], "test": digits["test"]}
    monitor = build_monitor(dataclasses.replace(CONFIG, knn_images=50), {name: every[name] for name in names})
    assert monitor(encoder)["knn_trained_on"] == share


# --- images of 16 bits ----------------------------------------------------------------------------------------------


def deep_images(folder: Path, factor: int) -> str:
    """Forty images of two classes, of 8 bits times `factor` in 16-bit files."""
    generator = np.random.default_rng(0)
    for number in range(40):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        values = generator.integers(0, 256, (16, 16), dtype=np.uint16) * np.uint16(factor)
        PillowImage.fromarray(values).save(folder / "ab"[number % 2] / f"{number:02}.png")
    return str(folder)


def test_the_white_level_goes_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was white to a run is so to all that its weights see: evaluations, exports, single images, further runs."""
    config = recipe(
        "quick", data=deep_images(tmp_path / "x", 16), out=tmp_path / "run", arch="resnet10-w4", image_size=16,
        batch_size=16, queue_size=32, max_steps=1, knn_every=0, workers=0, threads=1, device="cpu", init="kaiming",
        channels="rgb",
    )  # fmt: skip
    pretrain(config)
    assert "use 12 bits: 4095 becomes white" in capsys.readouterr().err
    assert json.loads((config.out / "config.json").read_text())["white_level"] == 4095
    same = deep_images(tmp_path / "8 bits", 16)
    for path in Path(same).glob("*/*.png"):
        with PillowImage.open(path) as image:
            PillowImage.fromarray(np.round(np.asarray(image) * (255 / 4095)).astype(np.uint8)).save(path)
    export(ExportConfig(str(config.out), "safetensors", tmp_path / "exported"))
    found = {}
    for weights in (config.out, config.out / "checkpoints", tmp_path / "exported"):
        for data in (config.data, same):
            out = tmp_path / "x.npz"
            embed(EmbedConfig(str(weights), data, out, features="plain", device="cpu", precision="fp32", threads=1))
            found[weights.name, data] = np.load(tmp_path / "x.npz")["features"]
    first = found["run", same]
    assert all(np.abs(features - first).max() < 1e-5 for features in found.values())
    frozen = load_encoder(config.out, features="plain")
    assert np.abs(frozen.embed([tmp_path / "x" / "a" / "00.png"]).numpy() - first[:1]).max() < 1e-5
    assert pretrain(dataclasses.replace(config))["already_done"]
    more = dataclasses.replace(config, data=same, out=tmp_path / "more", init_weights=str(config.out))
    pretrain(more)
    assert json.loads((more.out / "config.json").read_text())["white_level"] == 4095


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:.*take much time")
def test_the_most_pixels_go_with_the_run(tmp_path: Path) -> None:
    """The run stores them; images of more are replaced, in evaluations refused."""
    config = recipe(
        "quick", data=deep_images(tmp_path / "x", 256), out=tmp_path / "run", arch="resnet10-w4", image_size=16,
        batch_size=16, queue_size=32, max_steps=1, knn_every=0, workers=0, threads=1, device="cpu", init="kaiming",
        channels="rgb", most_pixels=256,
    )  # fmt: skip
    pretrain(config)
    assert json.loads((config.out / "config.json").read_text())["most_pixels"] == 256
    with pytest.raises(BadInputError, match="more than 255 pixels"):
        pretrain(dataclasses.replace(config, out=tmp_path / "other", most_pixels=255))
    with pytest.raises(BadInputError, match="more than 255 pixels"):
        knn(KnnConfig(str(config.out), config.data, device="cpu", threads=1, workers=0, most_pixels=255))


def test_runs_from_before_keep_the_full_range(tmp_path: Path) -> None:
    """A config without a white level is of a run that saw its images nearly black: it goes on as it began."""
    text = to_json(dataclasses.replace(CONFIG, white_level=4095))
    values = json.loads(text)
    del values["white_level"]
    assert from_json(PretrainConfig, json.dumps(values), tmp_path).white_level == 65535


def whitening(out: Path, **more: Any) -> PretrainConfig:
    """A run of a step or two that ends by whitening the features of its images."""
    small = {"arch": "resnet18-w4", "image_size": 16, "batch_size": 16, "max_steps": 2, "knn_every": 0, "workers": 0}
    return recipe("quick", data="digits", out=out, threads=1, device="cpu", precision="fp32", **small, **more)


def test_a_run_ends_with_whitened_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's encoder, by the images asked for, is that of a run without, followed by the map that suits these."""
    plain, config = whitening(tmp_path / "plain", whiten=0), whitening(tmp_path / "run", whiten=150)
    pretrain(plain)
    result = pretrain(config)
    said = capsys.readouterr().out
    assert "whitens its features by the statistics of 150 training images: kNN accuracy among them rose" in said
    before, after = (load_weights(str(one.out)).encoder for one in (plain, config))
    assert not before.whitens
    assert after.whitens
    digits = take_evenly(load("digits")["train"], 150)
    how = Encoding(16, require(config.mean), require(config.std), unit=False)
    grids = before.grids(16)
    cells = encode_grids(before, digits, how, grids)
    expected = choose_whitening(cells, labels_of(digits), 10, grids=grids)
    assert expected is not None
    assert (after.grid, len(expected.weight)) == (2, 4 * before.num_features)  # the last map has 2 x 2 pixels
    assert torch.allclose(after.whitening.get_parameter("weight"), expected.weight, atol=1e-5)
    assert result["whitened"] == {**expected.figures, "ridge": result["whitened"]["ridge"]}
    assert torch.equal(encode(after, digits, dataclasses.replace(how, output="plain")), encode(before, digits, how))
    assert pretrain(config)["already_done"]  # a finished run is not changed
    again = dataclasses.replace(config, out=tmp_path / "more", init_weights=str(config.out), whiten=0)
    pretrain(again)  # whose whitening is that of other features
    assert not load_weights(str(again.out)).encoder.whitens


@pytest.mark.parametrize(("classes", "expected"), [(2, 20), (1, 50), (0, 50)])
def test_images_with_labels_whiten(classes: int, expected: int) -> None:
    """Where there are labels of several classes, these images alone; else all that are trained on."""
    pixels = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = np.arange(20) % classes if classes else None
    splits: dict[Split, Images] = {
        "train": ArrayImages(pixels[:20], labels, tuple("ab"[:classes])), "unlabeled": ArrayImages(pixels[20:]),
    }  # fmt: skip
    whitener = build_whitener(dataclasses.replace(CONFIG, whiten=100), splits)
    assert isinstance(whitener, FeatureWhitener)
    assert len(whitener.images) == expected
    assert (whitener.images.labels is not None) == (classes == 2)


def test_a_run_that_is_broken_off_while_it_whitens_does_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, before and after the file is written."""
    whole = whitening(tmp_path / "whole")
    pretrain(whole)
    for place in ("moco.evaluation.feature_whitening.choose_whitening", "moco.runtime.run.Run.finish"):
        broken = dataclasses.replace(whole, out=tmp_path / place)
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            with pytest.raises(RuntimeError, match="the machine fails"):
                pretrain(broken)
        pretrain(broken)
        name = "encoder.safetensors"
        assert (broken.out / name).read_bytes() == (whole.out / name).read_bytes()


def fail(*_: Any, **__: Any) -> None:
    """As a machine does."""
    raise RuntimeError("the machine fails")


def test_only_neighbours_see_whitened_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not `moco linear`; random weights and pixels are whitened where the run is, and others if it is asked for."""
    run, plain = (whitening(tmp_path / name, whiten=whiten) for name, whiten in (("run", 400), ("plain", 0)))
    for config in (run, plain):
        pretrain(config)
    common = ["--data", "digits", "--device", "cpu", "--threads", "1", "--precision", "fp32", "--json"]

    def told(command: str, *words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([command, *words, *common]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    quick = ("--no-baseline", "--views", "1", "--penalties", "0.1")
    one, other = (told("linear", "--weights", str(config.out), *quick) for config in (run, plain))
    assert one["top1"] == other["top1"]
    whitened = told("knn", "--weights", str(run.out), "--baseline", str(plain.out))
    kept = told("knn", "--weights", str(plain.out))
    assert whitened["whitened"] is True
    assert kept["whitened"] is False
    assert whitened["baselines"][str(plain.out)]["top1"] == kept["top1"] < whitened["top1"]
    assert told("knn", "--weights", str(run.out), "--features", "plain")["top1"] == kept["top1"]
    asked = told("knn", "--weights", str(plain.out), "--whiten")
    assert asked["whitened"] is True
    assert asked["top1"] > kept["top1"]
    assert asked["baselines"]["random"] == {**whitened["baselines"]["random"], **{
        name: asked["baselines"]["random"][name] for name in ("difference", "low", "high")}}  # fmt: skip
    assert main(["knn", "--weights", str(plain.out), "--whiten", "--features", "head", *common]) == 2
    assert "--features head: --whiten is for the backbone's features" in capsys.readouterr().err
    pixels = [found["baselines"]["pixels"]["top1"] for found in (kept, asked, whitened)]
    assert pixels[0] != pixels[1] == pixels[2]
    assert kept["baselines"]["random"]["top1"] < asked["baselines"]["random"]["top1"]
