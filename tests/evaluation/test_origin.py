"""A result says which images it is of, and calls none of them held out that the encoder was trained on."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.cli import main
from moco.commands.pretrain import run as pretrain
from moco.evaluation.config import RANDOM
from moco.evaluation.origin import describe_images, describe_origin
from moco.evaluation.session import load_labelled
from moco.pretraining.recipes import recipe
from tests.slow import slow

SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 8, "view_size": 8, "max_steps": 1, "batch_size": 8, "bn_groups": 2,
    "knn_every": 0, "device": "cpu", "threads": 1, "workers": 0,
}  # fmt: skip


def write(folder: Path, first: int, count: int, side: int = 8) -> None:
    """Pictures of two classes, of names that are the same in every split."""
    rng = np.random.default_rng(first)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def trained(data: Path, out: Path) -> str:
    """A run on these images."""
    pretrain(recipe("quick", data=str(data), out=out, **SMALL))
    return str(out)


def describe(weights: str, data: Path) -> tuple[dict[str, float | None], str]:
    """What was trained on, and in words."""
    found = describe_origin(weights, load_labelled(str(data)), "bank", "queries")
    return found["trained_on"], found["measured_on"]


SIDES = pytest.mark.parametrize("side", [8, 100])
"""Pictures that are held in memory, or read from files, all of which have one size."""


@SIDES
def test_splits_of_the_run_s_own_images(tmp_path: Path, side: int) -> None:
    """Test and validation are held out from training; a tenth of train is not, though it is out of the bank."""
    data = tmp_path / "data"
    write(data / "train", 0, 40, side)
    run = trained(data, tmp_path / "run")
    assert describe(run, data) == (
        {"bank": 100, "queries": 100}, "a tenth of train, which the encoder was trained on"
    )  # fmt: skip
    write(data / "val", 1, 10, side)
    assert describe(run, data) == ({"bank": 100, "queries": 0}, "the validation split, held out from training")
    write(data / "test", 2, 10, side)
    assert describe(run, data) == ({"bank": 100, "queries": 0}, "the test split, held out from training")
    assert describe_origin(run, load_labelled(str(data)), "train", "test")["splits"] == {
        "train": "train",
        "test": "test",
    }
    for path in (data / "train" / "a").iterdir():  # as a copy has other times
        os.utime(path, ns=(0, 0))
    assert describe(f"{run}/encoder.safetensors", data)[0] == {"bank": 100, "queries": 0}


@SIDES
def test_images_that_are_in_both_splits(tmp_path: Path, side: int) -> None:
    """The share of them is stated."""
    data = tmp_path / "data"
    write(data / "train", 0, 40, side)
    run = trained(data, tmp_path / "run")
    write(data / "test", 1, 10, side)
    for number in (0, 1):
        name = f"{'ab'[number % 2]}/{number}.png"
        shutil.copy2(data / "train" / name, data / "test" / name)
    assert describe(run, data) == (
        {"bank": 100, "queries": 20}, "the test split, 20% of which the encoder was trained on"
    )  # fmt: skip


def test_of_other_images_nothing_is_known(tmp_path: Path) -> None:
    """The same ones might have had other names; what is known to have been trained on is said all the same."""
    write(tmp_path / "one" / "train", 0, 40)
    write(tmp_path / "two" / "train", 1, 40)
    write(tmp_path / "two" / "test", 2, 10)
    run = trained(tmp_path / "one", tmp_path / "run")
    assert describe(run, tmp_path / "two") == ({"bank": None, "queries": None}, "the test split")
    shutil.rmtree(tmp_path / "two" / "test")
    shutil.copytree(tmp_path / "one" / "train", tmp_path / "two" / "test")
    assert describe(run, tmp_path / "two")[0] == {"bank": None, "queries": 100}


def test_weights_that_are_no_run_s(tmp_path: Path) -> None:
    """Random ones were trained on nothing; of a file alone nothing is known, nor where the marks are damaged."""
    data = tmp_path / "data"
    write(data / "train", 0, 40)
    write(data / "test", 1, 10)
    run = Path(trained(data, tmp_path / "run"))
    shutil.copy(run / "encoder.safetensors", tmp_path / "alone.safetensors")
    assert describe(RANDOM, data) == ({"bank": 0, "queries": 0}, "the test split")
    assert describe(str(tmp_path / "alone.safetensors"), data) == ({"bank": None, "queries": None}, "the test split")
    (run / "data.safetensors").write_bytes(b"damaged")
    assert describe(str(run), data) == ({"bank": None, "queries": None}, "the test split")


@pytest.mark.parametrize("share", [None, 100.0, 37.5])
def test_only_what_was_not_trained_on_is_held_out(share: float | None) -> None:
    """In words."""
    assert "held out" not in describe_images("tenth", share)


@pytest.mark.parametrize("command", ["knn", slow("linear"), "lowshot"])
def test_the_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """In their results."""
    data = tmp_path / "data"
    write(data, 0, 40)
    run = trained(data, tmp_path / "run")
    flags = {"lowshot": ["--labels", "3", "--draws", "1", "--finetune-steps", "0"]}.get(command, [])
    capsys.readouterr()
    arguments = ["--weights", run, "--data", str(data), "--no-baseline", "--device", "cpu", "--threads", "1", *flags]
    assert main([command, *arguments, "--json"]) == 0
    out, said = capsys.readouterr()
    found = json.loads(out)
    assert found["measured_on"] == "a tenth of train, which the encoder was trained on"
    assert list(found["splits"].values()) == ["nine tenths of train", "a tenth of train"]
    assert "held out" not in said
