"""A teacher's keys: of every image once, or of each view; a student learns from them and goes on bit for bit."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from moco.cli import main
from moco.core.dictionary import Queue, TeacherKeys
from moco.core.encoder import EncoderPlan
from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.data.parts import CROPS, FIRST_CROP, draw_parts
from moco.errors import BadInputError
from moco.evaluation import teacher
from moco.evaluation.features import Encoding, RandomViews, encode
from moco.evaluation.session import backbone_digest
from moco.evaluation.teacher import load_teacher
from moco.interop.checkpoints import load_weights, random_weights
from moco.pretraining.prepare import build_dictionary
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors, save_tensors
from tests.faults.processes import finish, lines
from tests.slow import slow

STUDENT = Encoding(16, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
SMALL = (
    "--arch", "resnet10-w8", "--stem", "cifar", "--image-size", "12", "--batch-size", "32", "--precision", "fp32",
    "--device", "cpu", "--threads", "1", "--knn-every", "0", "--log-every", "4", "--data", "digits", "--max-steps", "6",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where features are kept; commands are not type-checked, since tyro marks what must be given in its own way."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    return tmp_path / "home"


@pytest.fixture
def images() -> Images:
    """Some digits."""
    return take_evenly(load("digits")["train"], 60)


def test_cached_keys_are_the_centred_features_of_whole_images(tiny_run: Path, images: Images, home: Path) -> None:
    """Of unit length; read back from the cache, which a damaged file does not break; other images have another."""
    teacher = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=True)
    weights = load_weights(str(tiny_run))
    h = encode(weights.encoder, images, Encoding(16, weights.mean, weights.std, "plain", unit=False))
    assert teacher.features is not None
    assert torch.allclose(teacher.features, F.normalize(h - h.mean(0)), atol=1e-6)
    assert teacher.width == h.shape[1]
    index = torch.tensor([5, 0, 5])
    assert torch.equal(teacher.keys(None, index, 0), teacher.features[index])
    (kept,) = (home / "features").iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    again = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=True)
    assert again.features is not None
    assert torch.equal(again.features, teacher.features)
    load_teacher(str(tiny_run), take_evenly(images, 30), STUDENT, "cpu", size=None, cached=True)
    load_teacher(str(tiny_run), images, STUDENT, "cpu", size=12, cached=True)
    assert len(list((home / "features").iterdir())) == 3


def test_cached_keys_lie_on_the_device_once() -> None:
    """The table that a dictionary compares with is the one that keys are read from."""
    taught = teacher._answer([torch.randn(4, 3)], 4, "", "meta")
    assert taught.features is not None
    assert taught.features.device.type == "meta"


def test_a_crop_has_a_key_of_its_own(tiny_run: Path, images: Images, home: Path) -> None:
    """The teacher's feature of that window of the image alone, centred as whole images are."""
    weights, crops = load_weights(str(tiny_run)), [RandomViews(CROPS, 3, FIRST_CROP + number) for number in (1, 2)]
    teacher = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=True, crops=crops)
    assert len(list((home / "features").iterdir())) == 3
    h = encode(weights.encoder, images, Encoding(16, weights.mean, weights.std, "plain", unit=False))
    assert teacher.features is not None
    whole = teacher.features[: len(images)]
    assert torch.allclose(whole, F.normalize(h - h.mean(0)), atol=1e-6)
    rows, sizes = np.arange(len(images)), np.array([images[row].shape[1:] for row in range(len(images))])
    for epoch in range(6):
        keys, place = teacher.keys(None, torch.from_numpy(rows), epoch), epoch % 3 * len(images)
        assert torch.equal(keys, teacher.features[place : place + len(images)])
        if epoch % 3 == 0:
            assert torch.equal(keys, whole)
            continue
        windows = draw_parts(sizes, 2, seed=3, epoch=epoch, index=rows)
        cut = [images[row][:, y : y + h, x : x + w] for row, (y, x, h, w) in enumerate(windows.tolist())]
        pixels = torch.cat([F.interpolate(one[None] / 255, (16, 16), mode="bilinear", antialias=True) for one in cut])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (weights.mean, weights.std))
        with torch.no_grad():
            expected = F.normalize(weights.encoder.eval().backbone((pixels - mean) / std) - h.mean(0))
        assert torch.allclose(keys, expected, atol=1e-3)


def test_live_keys_are_those_of_the_views(tiny_run: Path, images: Images) -> None:
    """Whole images, normalised for the student, get the keys that they have in the cache."""
    cached = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=True)
    live = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=False)
    assert live.features is None
    pixels = torch.stack([images[row] for row in range(6)]).float()
    pixels = F.interpolate(pixels, (16, 16), mode="bilinear", antialias=True) / 255
    x = (pixels - torch.tensor(STUDENT.mean).view(3, 1, 1)) / torch.tensor(STUDENT.std).view(3, 1, 1)
    found, expected = live.keys(x, torch.arange(6), 0), cached.keys(None, torch.arange(6), 0)
    assert torch.allclose(found, expected, atol=2e-2)  # resized pixels are rounded to bytes, or not


def test_live_keys_send_no_numbers_at_each_step(
    tiny_run: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means and deviations go to the device once: a host that sends numbers to a GPU waits for it."""
    live = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=False)
    x, index = torch.rand(2, 3, 16, 16), torch.arange(2)
    first = live.keys(x, index, 0)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("numbers were sent"))
    assert torch.equal(live.keys(x, index, 0), first)


def test_all_keys_or_a_queue_of_them(tiny_run: Path, images: Images) -> None:
    """Where K holds the keys of all other images they are the dictionary; else the last K are."""
    teacher = load_teacher(str(tiny_run), images, STUDENT, "cpu", size=None, cached=True)
    config = recipe("taught", data="", out=Path(), teacher="", feature_dim=teacher.width)
    for others, kind in ((len(images) - 1, TeacherKeys), (len(images) - 2, Queue)):
        assert isinstance(build_dictionary(dataclasses.replace(config, queue_size=others), len(images), teacher), kind)


def test_weights_that_give_no_numbers_teach_nothing(
    tiny_run: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line."""
    weights = load_weights(str(tiny_run))
    with torch.no_grad():
        next(weights.encoder.backbone.parameters()).fill_(torch.nan)
    monkeypatch.setattr("moco.evaluation.teacher.load_weights", lambda *_: weights)
    with pytest.raises(BadInputError, match=r"--teacher W: .*features of .* are not finite"):
        load_teacher("W", images, STUDENT, "cpu", size=None, cached=True)


def test_documents_teach_nothing_about_images(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    weights = random_weights(EncoderPlan("bytes-tiny", image_size=16), 0, (0.0,) * 3, (1.0,) * 3)
    monkeypatch.setattr("moco.evaluation.teacher.load_weights", lambda *_: weights)
    with pytest.raises(BadInputError, match="--teacher W: takes documents, and the images are bytes of RGB"):
        load_teacher("W", images, STUDENT, "cpu", size=None, cached=True)


AGAIN = ("--teacher-crops", "2", "--batch-size", "480")
"""Six steps are two epochs."""
LIVE = ("--teacher-views", "live", "--queue-size", "64")


@pytest.mark.parametrize(
    "more",
    [slow((), id="cached"), pytest.param(AGAIN, id="views"), pytest.param(LIVE, id="live")],
)
def test_a_student_goes_on_bit_for_bit(tiny_run: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Six steps, and the same with only the checkpoint of the fourth left."""
    run = tmp_path / "run"
    command = ["pretrain", "taught", "--teacher", str(tiny_run), *SMALL, *more, "--checkpoint-every", "4"]
    assert main([*command, "--out", str(run)]) == 0
    whole, _ = load_tensors(checkpoint_path(run, 6))
    checkpoint_path(run, 6).unlink()
    (run / "status.json").write_text('{"state": "running"}')
    assert main(["resume", str(run)]) == 0
    again, _ = load_tensors(checkpoint_path(run, 6))
    assert list(again) == list(whole)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    student, teacher = load_weights(str(run)).encoder, load_weights(str(tiny_run)).encoder
    assert student.plan.feature_dim == teacher.num_features


def test_another_teacher_than_before_is_refused(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its digest is in the run's states and its result; the same weights in another file are the same teacher."""
    run, teacher = tmp_path / "run", tmp_path / "teacher.safetensors"
    tensors, about = load_tensors(tiny_run / "encoder.safetensors")
    save_tensors(teacher, tensors, about)
    command = ["pretrain", "taught", "--teacher", str(teacher), *SMALL, "--checkpoint-every", "4", "--out", str(run)]
    assert main(command) == 0
    digest = backbone_digest(load_weights(str(tiny_run)).encoder)
    assert load_tensors(checkpoint_path(run, 6))[1]["teacher"] == digest
    assert json.loads((run / "status.json").read_text())["result"]["teacher_digest"] == digest
    (run / "status.json").write_text('{"state": "running"}')
    save_tensors(teacher, {**tensors, "conv1.weight": tensors["conv1.weight"] + 1}, about)
    capsys.readouterr()
    assert main(["resume", str(run)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"its teacher's weights had the digest {digest[:12]}, those of --teacher have" in line


@pytest.mark.parametrize("recipe_name", ["taught", "reduced"])
def test_a_student_goes_on_without_the_teachers_file(
    tiny_run: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], recipe_name: str
) -> None:
    """The kept features are enough; without these, or for keys of views, the file is needed, and one line says so."""
    run, teacher = tmp_path / "run", tmp_path / "teacher.safetensors"
    tensors, about = load_tensors(tiny_run / "encoder.safetensors")
    save_tensors(teacher, tensors, about)
    small = SMALL if recipe_name == "taught" else SMALL[4:]
    command = ["pretrain", recipe_name, "--teacher", str(teacher), *small, "--checkpoint-every", "4", "--out", str(run)]
    command += ["--teacher-crops", "1", "--teacher-size", "12", "--image-size", "12", "--keep", "last"]
    assert main(command) == 0
    whole, _ = load_tensors(checkpoint_path(run, 6))
    teacher.unlink()
    for again in (command, ["resume", str(run)]):
        checkpoint_path(run, 6).unlink()
        (run / "status.json").write_text('{"state": "running"}')
        capsys.readouterr()
        assert main(again) == 0
        assert f"--teacher {teacher}: cannot be read, and is not needed: its features are kept" in (
            capsys.readouterr().out
        )
        found, _ = load_tensors(checkpoint_path(run, 6))
        assert all(torch.equal(found[name], value) for name, value in whole.items())
    for kept in (home / "features").iterdir():
        kept.unlink()
    checkpoint_path(run, 6).unlink()
    (run / "status.json").write_text('{"state": "running"}')
    assert main(["resume", str(run)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"--teacher {teacher}: no such run or file" in line


def keep_in(folder: str) -> None:
    """Keep a teacher's features there, in a process of its own."""
    os.environ["MOCO_DATA"] = folder


@pytest.mark.parametrize(
    ("views", "more"), [("cached", ("--teacher-crops", "2")), slow("live", ("--queue-size", "64"))]
)
def test_two_ranks_are_taught_as_one(tiny_run: Path, tmp_path: Path, views: str, more: tuple[str, ...]) -> None:
    """The same losses, with keys from a cache that one of them writes, and of views that each encodes."""
    found = []
    for ranks in (1, 2):
        run = tmp_path / f"{views}-{ranks}"
        command = ["pretrain", "taught", "--teacher", str(tiny_run), *SMALL, *more, "--teacher-views", views]
        settings = "--bn-groups 2 --workers 0 --log-every 1 --no-blend --whiten 0"
        command += [*settings.split(), "--out", str(run)]
        finish(command, tmp_path, ranks=ranks, inject=functools.partial(keep_in, str(tmp_path / f"home-{ranks}")))
        found.append([line["loss"] for line in lines(run, "loss")])
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--teacher", "nowhere"), "nowhere"),
        (
            ("--teacher", "RUN", "--teacher-views", "live", "--teacher-crops", "3"),
            "--teacher-crops is 3, and with --teacher-views live",
        ),
        (("--teacher", "VIT", "--teacher-size", "100"), "--teacher-size 100: timm:test_vit does not take such images"),
        (
            ("--teacher", "VIT", "--teacher-views", "live", "--image-size", "64", "--view-size", "60"),
            "--view-size 60: timm:test_vit does not take such images",
        ),
        (
            ("--teacher", "VIT", "--teacher-views", "live", "--image-size", "60"),
            "--view-size 60: timm:test_vit does not take such images",
        ),
        (("--teacher", "RUN", "--symmetric"), "--symmetric needs keys of both views, and --teacher-views cached"),
    ],
)
@pytest.mark.filterwarnings("ignore:--data digits. most images are about 8 pixels")
def test_mistakes_are_named(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    """In one line, with exit code 2."""
    vit = tmp_path / "vit.safetensors"
    if "VIT" in flags:
        save_file(timm.create_model("test_vit").state_dict(), vit)
    places = {"RUN": str(tiny_run), "VIT": f"timm:test_vit@{vit}"}
    given = [places.get(flag, flag) for flag in flags]
    assert main(["pretrain", "taught", *SMALL, "--out", str(tmp_path / "run"), *given]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("moco: error: ")
    assert said in last
