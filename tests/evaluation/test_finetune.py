"""Fine-tuning trains a copy of the whole network, the same way every time, and says when it fails."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image as PillowImage
from torch import nn

import moco
from moco.cli import main
from moco.commands.finetune import run
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images
from moco.data.loader import ViewBatches
from moco.errors import BadInputError, DivergedError
from moco.evaluation.config import FinetuneConfig
from moco.evaluation.features import Encoding
from moco.evaluation.finetune import CROP_AND_FLIP, Finetuning, finetune_and_score, train_network, with_classifier
from moco.evaluation.session import Subject, backbone_digest
from moco.interop.checkpoints import Weights
from moco.interop.metadata import encoder_metadata
from moco.runtime import scaling
from moco.runtime.checkpoint import load_tensors, save_tensors

HALVES = (0.5, 0.5, 0.5)
CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}


@pytest.fixture
def subject() -> Subject:
    """A small network with random weights."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w8", "cifar", image_size=16))
    return Subject(Weights(encoder, HALVES, HALVES), Encoding(16, HALVES, HALVES, unit=False))


def digits(split: Any, count: int) -> Images:
    """Some digits, in memory."""
    images = load("digits")[split]
    assert isinstance(images, ArrayImages)
    assert images.labels is not None
    return ArrayImages(images.pixels[:count], images.labels[:count], images.classes)


def test_it_learns_and_leaves_the_subject_as_it_was(subject: Subject) -> None:
    """From random weights, 60 steps on 600 digits: far above chance; the encoder that was given is untouched."""
    before = backbone_digest(subject.encoder)
    found = finetune_and_score(subject, digits("train", 600), digits("test", 200), Finetuning(60, 0.05, 64))
    assert found.top1 > 60
    assert backbone_digest(subject.encoder) == before


def test_the_same_seed_trains_the_same_network(subject: Subject) -> None:
    """Bit for bit; another seed another."""
    train = digits("train", 64)
    found = []
    for seed in (0, 0, 1):
        torch.rand(3)
        model = train_network(subject, train, Finetuning(3, 0.05, 32, seed=seed)).network
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert not torch.equal(found[0]["fc.weight"], found[2]["fc.weight"])


def test_a_step_in_fp16_that_overflows_is_left_out(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights stay as they were; at a scale that fp16 can hold they are trained."""
    subject = dataclasses.replace(subject, how=dataclasses.replace(subject.how, precision="fp16"))
    untrained = with_classifier(subject, 10, 0).get_parameter("fc.weight")
    for scale, same in ((2.0**60, True), (1.0, False)):
        monkeypatch.setattr(scaling, "FIRST_SCALE", scale)
        trained = train_network(subject, digits("train", 8), Finetuning(1, 0.05, 8)).network
        assert torch.equal(trained.get_parameter("fc.weight"), untrained) is same


def test_a_step_equals_torch_s_own(subject: Subject) -> None:
    """One step at the full rate: every weight and statistic is what nn.Module and SGD make of the same batch.

    Batch normalisation therefore took its statistics over all 32 images.
    """
    train = digits("train", 32)
    found = train_network(subject, train, Finetuning(1, 0.05, 32, weight_decay=1e-3)).network.state_dict()
    model = with_classifier(subject, 10, 0).train()
    x, _, index, _ = ViewBatches(train, CROP_AND_FLIP, 16, HALVES, HALVES, 32, key_views=False)[0]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    assert train.labels is not None
    torch.autograd.backward(nn.functional.cross_entropy(model(x), torch.from_numpy(train.labels)[index]))
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.allclose(found[name].float(), value.float(), atol=1e-6), name


def test_the_rate_falls_to_nothing_by_half_a_cosine(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a warm-up of at most a tenth of the steps."""
    rates: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *arguments: Any, **more: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **more)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    train_network(subject, digits("train", 16), Finetuning(20, 0.1, 16, warmup_steps=100))
    assert rates[:2] == pytest.approx([0.05, 0.1])
    assert rates[3:] == pytest.approx([0.05 * (1 + np.cos(np.pi * t / 20)) for t in range(3, 20)])


def test_divergence_is_told(subject: Subject) -> None:
    """Not a figure of a network that is not a number."""
    with pytest.raises(DivergedError, match="lr 1e\\+30"):
        train_network(subject, digits("train", 32), Finetuning(4, 1e30, 16))


def test_the_command(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Result, baseline, the file in the run, and the network in a file."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    save = tmp_path / "tuned.safetensors"
    config = FinetuneConfig(str(copy), "digits", max_steps=3, batch_size=32, baselines=("random",), save=save, **CPU)
    result = run(config)
    assert result["steps"] == 3
    assert result["lr"] == pytest.approx(0.1 * 32 / 256)
    assert result["baselines"]["supervised"]["top5"] <= 100
    assert (copy / "evaluations" / "finetune.json").is_file()
    output = capsys.readouterr().out
    assert "fine-tuned: top-1" in output
    assert "supervised from scratch: top-1" in output
    assert load_tensors(save)[0]["fc.weight"].shape == (10, 64)
    classifier = moco.load_classifier(save)
    assert classifier.classes == tuple(str(digit) for digit in range(10))
    test = load("digits")["test"]
    chosen = classifier.predict(test[row] for row in range(len(test))).argmax(1)
    assert chosen.tolist() == json.loads((copy / "evaluations" / "finetune.json").read_text())["predicted"]
    with pytest.raises(BadInputError, match=r"ends in \.safetensors"):
        run(dataclasses.replace(config, save=tmp_path / "tuned.pth"))


def test_weights_to_compare_with(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--baseline W` fine-tunes them in the same way; random ones are known as supervised."""
    copy, other = (str(shutil.copytree(tiny_run, tmp_path / name)) for name in ("run", "other"))
    flags = ["--weights", copy, "--data", "digits", "--max-steps", "2", "--batch-size", "32", "--json"]
    flags += ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--baseline", "random", "--baseline", other]
    assert main(["finetune", *flags]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result["baselines"]) == ["supervised", other]
    same, scratch = result["baselines"][other], result["baselines"]["supervised"]
    assert (same["top1"], same["difference"], same["low"], same["high"]) == (result["top1"], 0, 0, 0)
    assert scratch["difference"] == pytest.approx(result["top1"] - scratch["top1"], abs=2e-3)
    assert f"{copy}, fine-tuned: +0.00 points, 95% interval +0.00 to +0.00" in err


def test_the_result_is_kept_where_a_baseline_diverges(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that suits the encoder need not suit another network."""
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))

    def train(subject: Subject, images: Images, recipe: Finetuning, title: str, *others: Any) -> Any:
        if title.startswith("supervised"):
            raise DivergedError("loss nan")
        return train_network(subject, images, recipe, title, *others)

    monkeypatch.setattr("moco.commands.finetune.train_network", train)
    with pytest.raises(DivergedError, match="loss nan"):
        run(FinetuneConfig(str(copy), "digits", max_steps=1, batch_size=32, baselines=("random",), **CPU))
    kept = json.loads((copy / "evaluations" / "finetune.json").read_text())
    assert kept["top1"] > 0
    assert kept["baselines"] == {}


def test_raw_pixels_are_no_network(tiny_run: Path) -> None:
    """To fine-tune."""
    with pytest.raises(BadInputError, match="--baseline pixels: raw pixels cannot be fine-tuned"):
        run(FinetuneConfig(str(tiny_run), "digits", baselines=("pixels",), **CPU))


@pytest.mark.parametrize("arch", ["resnet18", "timm:mobilenetv3_small_050"])
def test_a_saved_network_is_its_library_s(arch: str, tmp_path: Path) -> None:
    """The whole network with as many classes loads the file, and predicts the same as `moco.load_classifier`."""
    save = tmp_path / "tuned.safetensors"
    run(FinetuneConfig("random", "digits", arch=arch, image_size=32, max_steps=1, batch_size=8, save=save, **CPU))
    tensors, metadata = load_tensors(save)
    timm_name = arch.partition("timm:")[2]
    if timm_name:
        model = timm.create_model(timm_name, num_classes=10)
        tensors = {name.replace("fc.", "classifier."): value for name, value in tensors.items()}
    else:
        model = torchvision.models.get_model(arch, weights=None, num_classes=10)
    model.load_state_dict(tensors)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(metadata[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = model.eval()(((image / 255 - mean) / std)[None]).softmax(1)
    assert torch.allclose(moco.load_classifier(save).predict([image]), expected, atol=1e-5)


def test_what_is_no_classifier_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    """An encoder, and tensors that lack the last layer; and `--weights` takes no classifier."""
    with pytest.raises(BadInputError, match="expected a file that moco finetune --save wrote"):
        moco.load_classifier(tiny_run / "encoder.safetensors")
    with pytest.raises(BadInputError, match="not a valid safetensors file"):
        moco.load_classifier(tmp_path / "gone.safetensors")
    plan, save = EncoderPlan("resnet10-w4", "cifar", image_size=8), tmp_path / "tuned.safetensors"
    more = {"kind": "classifier", "image_size": 8, "classes": ["cat", "dog"]}
    backbone = Encoder(plan).backbone.state_dict()
    save_tensors(save, backbone, encoder_metadata(plan, HALVES, HALVES, 0) | more)
    with pytest.raises(BadInputError, match=r"head\.bias expected"):
        moco.load_classifier(save)
    with pytest.raises(BadInputError, match=r"a classifier of moco finetune --save, .* moco\.load_classifier reads it"):
        moco.load_weights(str(save))


def test_batches_of_one_image_are_refused(subject: Subject) -> None:
    """Batch normalisation has nothing to take statistics over."""
    with pytest.raises(BadInputError, match=r"--batch-size is 1, of 64 images: expected 2 or more"):
        train_network(subject, digits("train", 64), Finetuning(3, 0.05, 1))


@pytest.mark.parametrize("held", [True, False])
def test_a_test_image_that_cannot_be_read(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], held: bool
) -> None:
    """No work is lost: it is refused before training where that is known then, and else the classifier is saved."""
    for number in range(24):
        path = tmp_path / "set" / ("test" if number >= 16 else "train") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.new("RGB", (20, 20 if held else 20 + number), (9 * number, 9, 90)).save(path)
    (tmp_path / "set" / "test" / "a" / "22.png").write_bytes(b"no image")
    saved = tmp_path / "classifier.safetensors"
    command = ["finetune", "--weights", str(tiny_run), "--data", str(tmp_path / "set"), "--max-steps", "1"]
    command += ["--batch-size", "8", "--device", "cpu", "--threads", "1", "--save", str(saved)]
    assert main(command) == 2
    assert "22.png" in capsys.readouterr().err.splitlines()[-1]
    assert saved.exists() != held
