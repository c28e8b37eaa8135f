"""The file of `moco embed` is plain arrays: loads without pickle, a row for each image, in order."""

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import moco
from moco.cli import main
from moco.commands.embed import run
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig
from moco.evaluation.features import Encoding, encode

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}


def read(path: Path) -> dict[str, Any]:
    """Every array of a file, none of which may need pickle."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_both_splits_of_the_digits(tiny_run: Path, tmp_path: Path) -> None:
    """Features as the backbone gives them, labels, names, which split, the classes' names."""
    result = run(EmbedConfig(str(tiny_run), "digits", tmp_path / "f.npz", **CPU))
    assert result["images"] == 1797
    found, digits, weights = read(tmp_path / "f.npz"), moco.load("digits"), moco.load_weights(str(tiny_run))
    assert found.keys() == {"features", "labels", "paths", "splits", "classes"}
    assert (found["features"].shape, found["features"].dtype) == ((1797, 128), np.float32)
    how = Encoding(16, weights.mean, weights.std, unit=False)
    expected = torch.cat([encode(weights.encoder, digits[name], how) for name in ("train", "test")])
    assert np.allclose(found["features"], expected.numpy(), atol=1e-5)
    assert np.array_equal(found["labels"], np.concatenate([digits["train"].labels, digits["test"].labels]))
    assert found["classes"].tolist() == [str(digit) for digit in range(10)]
    assert found["splits"].tolist() == ["train"] * 1437 + ["test"] * 360
    assert found["paths"][1437:1439].tolist() == ["#0", "#1"]
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def test_one_split_of_unit_length(tiny_run: Path, tmp_path: Path) -> None:
    """As kNN compares them."""
    run(EmbedConfig(str(tiny_run), "digits", tmp_path / "f.npz", split="test", unit=True, features="head", **CPU))
    found = read(tmp_path / "f.npz")
    assert len(found["features"]) == len(found["labels"]) == len(found["paths"]) == 360
    assert np.allclose(np.linalg.norm(found["features"], axis=1), 1, atol=1e-5)


def test_a_flat_folder_with_odd_names(tiny_run: Path, tmp_path: Path) -> None:
    """Without labels each is -1 and there are no classes; names that are not text in UTF-8 survive."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate([b"a.png", b"caf\xe9.png", "ü\n.png".encode()]):
        picture = PillowImage.fromarray(np.full((8 + number, 9, 3), 80 * number, np.uint8))
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            picture.save(file, "PNG")
    run(EmbedConfig(str(tiny_run), str(folder), tmp_path / "f.npz", **CPU))
    found = read(tmp_path / "f.npz")
    assert found["labels"].tolist() == [-1, -1, -1]
    assert len(found["classes"]) == 0
    assert [os.fsencode(str(path)) for path in found["paths"]] == [b"a.png", b"caf\xe9.png", "ü\n.png".encode()]


def test_a_table_and_plain_numbers(tiny_run: Path, tmp_path: Path) -> None:
    """The numbers of both are those of the .npz to the last bit, and each row names its image and class."""
    for ending in ("npz", "csv", "npy"):
        run(EmbedConfig(str(tiny_run), "digits", tmp_path / f"f.{ending}", split="test", **CPU))
    found = read(tmp_path / "f.npz")
    assert np.array_equal(np.load(tmp_path / "f.npy", allow_pickle=False), found["features"])
    with (tmp_path / "f.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["path", "split", "label", "f0"]
    assert np.array_equal(np.array([row[3:] for row in rows], np.float32), found["features"])
    with (tmp_path / "f.index.csv").open(newline="") as file:
        assert [row[:3] for row in rows] == list(csv.reader(file))[1:]
    assert [row[2] for row in rows] == [str(found["classes"][label]) for label in found["labels"]]
    assert rows[1][:2] == ["#1", "test"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"split": "val"}, "--split val: --data digits has no such split, expected one of train, test"),
        ({"out": Path("f.txt")}, r"--out f\.txt: expected a name that ends in \.npz, \.csv, \.npy"),
        ({"out": Path("gone/f.npz")}, "there is no folder gone"),
    ],
    ids=str,
)
def test_mistakes(tiny_run: Path, tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    """Are one line."""
    with pytest.raises(BadInputError, match=message):
        run(EmbedConfig(str(tiny_run), "digits", **{"out": tmp_path / "f.npz", **flags}, **CPU))


def test_a_full_disk_leaves_the_old_file(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no half of the new one."""
    out = tmp_path / "f.npz"
    out.write_bytes(b"old")

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(BadInputError, match="No space left"):
        run(EmbedConfig(str(tiny_run), "digits", out, split="test", **CPU))
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_from_the_command_line(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for people, one object for programs."""
    flags = ["--weights", str(tiny_run), "--data", "digits", "--out", str(tmp_path / "f.npz"), "--split", "test"]
    assert main(["embed", *flags, "--device", "cpu", "--threads", "1", "--json"]) == 0
    last, message = capsys.readouterr()
    assert "360 features of 128 numbers (test)" in message
    assert json.loads(last)["width"] == 128


def test_splits_of_different_classes(tiny_run: Path, tmp_path: Path) -> None:
    """Where train has no labels, the classes of the others are those of both, and each label is of them."""
    for name in ("train/1.png", "val/a/1.png", "val/b/1.png", "test/b/1.png", "test/c/1.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        PillowImage.new("RGB", (8, 8)).save(tmp_path / "d" / name)
    run(EmbedConfig(str(tiny_run), str(tmp_path / "d"), tmp_path / "f.npz", **CPU))
    found = read(tmp_path / "f.npz")
    classes = ["" if label < 0 else str(found["classes"][label]) for label in found["labels"]]
    folders = [path.split("/")[0] if "/" in path else "" for path in found["paths"].tolist()]
    assert classes == folders
    assert sorted(found["classes"].tolist()) == ["a", "b", "c"]
