"""Weights are found by a run, a checkpoint or an encoder file, whole and of the right shapes, or refused."""

import json
import math
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn

from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.errors import BadInputError
from moco.interop.checkpoints import Weights, load_weights, random_weights
from moco.interop.metadata import encoder_metadata
from moco.pretraining.prepare import build_encoder
from moco.pretraining.recipes import CIFAR10, recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors, save_tensors
from moco.runtime.fields import require

PLAN = EncoderPlan("resnet10-w8", "cifar", image_size=16)
"""Of the tiny run."""


@pytest.fixture
def encoder_file(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run's encoder, to be damaged."""
    return Path(shutil.copy(tiny_run / "encoder.safetensors", tmp_path / "encoder.safetensors"))


def same(a: Weights, b: Weights) -> bool:
    """Whether two are equal in every bit, and in what stands beside them."""
    x, y = encoder_tensors(a.encoder), encoder_tensors(b.encoder)
    assert x.keys() == y.keys()
    return a.encoder.plan == b.encoder.plan and (a.mean, a.std) == (b.mean, b.std) and equal(x, y)


def equal(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
    """Whether the tensors of these names are equal bit for bit."""
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def check_refused(weights: Path, *parts: str) -> None:
    """The message must be one line and hold each of `parts`."""
    with pytest.raises(BadInputError) as caught:
        load_weights(str(weights))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


# --- where weights are found ----------------------------------------------------------------------------------------


def test_run_checkpoint_and_encoder_file_agree(tiny_run: Path) -> None:
    """They hold the same f_q, and how its images were normalised; the checkpoint is older than the whitening."""
    paths = [tiny_run, tiny_run / "encoder.safetensors", checkpoint_path(tiny_run, 2)]
    run, file, checkpoint = (load_weights(str(path)) for path in paths)
    assert same(run, file)
    assert run.encoder.whitens
    run.encoder.whitening = nn.Identity()
    assert same(run, checkpoint)
    assert run.encoder.plan == PLAN
    assert (run.mean, run.std) == (CIFAR10["mean"], CIFAR10["std"])


def test_a_checkpoint_gives_the_query_encoder(tiny_run: Path) -> None:
    """Not f_k, which lags behind it."""
    tensors, _ = load_tensors(checkpoint_path(tiny_run, 2))
    found = encoder_tensors(load_weights(str(checkpoint_path(tiny_run, 2))).encoder)
    assert torch.equal(found["head.weight"], tensors["f_q.head.weight"])
    assert not torch.equal(found["head.weight"], tensors["f_k.head.weight"])


def test_a_run_without_encoder_file_gives_its_newest_sound_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    """A run that was killed, and a checkpoint that was cut off."""
    for step in (1, 2):
        path = checkpoint_path(tmp_path, step)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(checkpoint_path(tiny_run, 2), path)
    checkpoint_path(tmp_path, 3).write_bytes(checkpoint_path(tmp_path, 2).read_bytes()[:1000])
    assert same(load_weights(str(tmp_path)), load_weights(str(checkpoint_path(tiny_run, 2))))


@pytest.mark.parametrize("name", ["gone", "gone.safetensors"])
def test_weights_that_are_not_there(tmp_path: Path, name: str) -> None:
    """The message says what would be taken."""
    check_refused(tmp_path / name, str(tmp_path / name), "run folder", "checkpoint", "encoder.safetensors", "random")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    """The message names the folder."""
    check_refused(tmp_path, str(tmp_path), "encoder.safetensors", "checkpoint")


# --- what is damaged ------------------------------------------------------------------------------------------------


def test_a_truncated_file(encoder_file: Path) -> None:
    """Wherever it was cut off."""
    content = encoder_file.read_bytes()
    for size in (0, 4, 8, 1000, len(content) // 2, len(content) - 1):
        encoder_file.write_bytes(content[:size])
        check_refused(encoder_file, str(encoder_file))


def test_a_byte_flipped_in_the_weights(encoder_file: Path) -> None:
    """Wherever among them."""
    content = encoder_file.read_bytes()
    start = 8 + int(struct.unpack("<Q", content[:8])[0])
    for position in (*range(start, len(content), len(content) // 16), len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        encoder_file.write_bytes(damaged)
        check_refused(encoder_file, str(encoder_file), "digest")


def test_a_byte_flipped_in_the_description(encoder_file: Path) -> None:
    """It is refused too, or makes no difference: another mean or image size must not be believed."""
    content, before = encoder_file.read_bytes(), load_weights(str(encoder_file))
    start, stop = content.index(b"__metadata__"), content.index(b"}", content.index(b'"step'))
    for position in range(start, stop, 5):
        damaged = bytearray(content)
        damaged[position] ^= 1
        encoder_file.write_bytes(damaged)
        try:
            after = load_weights(str(encoder_file))
        except BadInputError:
            continue
        assert same(before, after), content[position - 10 : position + 10]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    """Whatever it is called."""
    path, sprung = tmp_path / "encoder.safetensors", tmp_path / "sprung"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({"state_dict": Trap(sprung)}, path)
    check_refused(path, str(path))
    assert not sprung.exists()


def test_a_file_of_another_program(tmp_path: Path) -> None:
    """A sound safetensors file without a description, and of no ResNet."""
    save_file({"patches.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    check_refused(tmp_path / "model.safetensors", "model.safetensors", "patches.weight", "expected a ResNet of MoCo")


# --- what does not fit ----------------------------------------------------------------------------------------------


def described(**changed: Any) -> dict[str, Any]:
    """The description of the tiny run's encoder, with other values in its plan."""
    metadata = encoder_metadata(PLAN, (0.5,) * 3, (0.5,) * 3, 2)
    return {**metadata, "encoder": {**metadata["encoder"], **changed}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feature_dim": 64}, r"head.bias expected \(64,\), found \(128,\)"),
        ({"arch": "resnet18-w4"}, r"resnet18-w4: bn1.bias expected \(4,\), found \(8,\)"),
        ({"arch": "resnet34-w8"}, r"resnet34-w8: layer1.1.bn1.bias expected \(8,\), found nothing"),
        ({"stem": "imagenet"}, r"conv1.weight expected \(8, 3, 7, 7\), found \(8, 3, 3, 3\)"),
        ({"head": "mlp"}, r"head.0.bias expected \(64,\), found nothing"),
        ({"arch": "resnet18-wide"}, r"resnet18-wide is not known"),
        ({"colour": "blue"}, r"encoder.safetensors.*colour"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_their_description(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """The message names the first tensor that differs, what was expected and what was found."""
    path = tmp_path / "encoder.safetensors"
    save_tensors(path, encoder_tensors(Encoder(PLAN)), described(**changed))
    with pytest.raises(BadInputError, match=message):
        load_weights(str(path))


@pytest.mark.parametrize("missing", ["encoder", "mean", "std"])
def test_an_incomplete_description(tmp_path: Path, missing: str) -> None:
    """The message names the file and what it lacks."""
    path = tmp_path / "encoder.safetensors"
    metadata = described()
    del metadata[missing]
    save_tensors(path, encoder_tensors(Encoder(PLAN)), metadata)
    check_refused(path, str(path), repr(missing))


def test_a_tensor_too_few_and_one_too_many(tmp_path: Path) -> None:
    """Both are named: half a backbone is not silently random."""
    path, tensors = tmp_path / "encoder.safetensors", encoder_tensors(Encoder(PLAN))
    few = {name: tensor for name, tensor in tensors.items() if name != "layer2.0.conv1.weight"}
    save_tensors(path, few, described())
    check_refused(path, "layer2.0.conv1.weight", "found nothing")
    save_tensors(path, {**tensors, "fc.weight": torch.zeros(2, 2)}, described())
    check_refused(path, "fc.weight", "expected nothing")


# --- random weights -------------------------------------------------------------------------------------------------


def test_random_weights_are_those_that_a_run_starts_from() -> None:
    """The same seed, the same network with --init kaiming. The global state is left alone."""
    values = {"arch": PLAN.arch, "image_size": 16, "bn_groups": 8, "seed": 7, "init": "kaiming"}
    config = recipe("quick", data="digits", out=Path("run"), **values)
    torch.manual_seed(config.seed)
    start = encoder_tensors(build_encoder(config))
    state = torch.get_rng_state()
    mean, std = require(config.mean), require(config.std)
    found, other = (random_weights(PLAN, seed, mean, std) for seed in (7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(encoder_tensors(found.encoder), start)
    assert not equal(encoder_tensors(other.encoder), start)
    assert (found.mean, found.std) == (config.mean, config.std)


# --- numbers that are none ------------------------------------------------------------------------------------------


def test_weights_of_a_run_that_diverged(encoder_file: Path) -> None:
    """One number is enough; the message names its tensor."""
    tensors, metadata = load_tensors(encoder_file)
    tensors["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_tensors(encoder_file, tensors, metadata)
    check_refused(encoder_file, "layer2.0.conv1.weight", "not finite", "earlier checkpoint")


def test_weights_of_another_project_that_diverged(tmp_path: Path) -> None:
    """The same."""
    state = torchvision.models.get_model("resnet18", weights=None).state_dict()
    state["bn1.running_var"][3] = torch.inf
    torch.save(state, tmp_path / "net.pth")
    check_refused(tmp_path / "net.pth", "bn1.running_var", "not finite")


@pytest.mark.parametrize("changed", [{"std": [0.2, 0.0, 0.2]}, {"std": [0.2, -1, 0.2]}, {"mean": [0.1, math.nan, 0.1]}])
def test_a_normalisation_that_gives_no_numbers(encoder_file: Path, changed: dict[str, Any]) -> None:
    """Features would be no numbers, and a figure would be computed from them all the same."""
    tensors, metadata = load_tensors(encoder_file)
    save_tensors(encoder_file, tensors, {**metadata, **changed})
    check_refused(encoder_file, "does not describe an encoder")


@pytest.mark.parametrize(("state", "said"), [("failed", "failed"), ("running", "was killed"), ("done", None)])
def test_a_run_that_did_not_come_to_its_end_is_told(
    tiny_run: Path, tmp_path: Path, state: str, said: str | None
) -> None:
    """Whoever evaluates its weights reads that they are those saved last."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "status.json").write_text(json.dumps({"state": state, "step": 1}))
    notes = [note for note in load_weights(str(run)).notes if "the weights that it saved last" in note]
    assert [note.partition(" (")[0].partition(": using")[0] for note in notes] == ([f"{run}: {said}"] if said else [])
