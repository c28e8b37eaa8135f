"""The file of `moco embed` is plain arrays: loads without pickle, a row for each image, in order."""

import csv
import dataclasses
import errno
import importlib
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
from moco.commands import embed
from moco.commands.embed import run
from moco.errors import BadInputError
from moco.evaluation import pieces
from moco.evaluation.config import EmbedConfig
from moco.evaluation.features import Encoding, encode
from moco.evaluation.tables import write_features

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0}


def read(path: Path) -> dict[str, Any]:
    """Every array of a file, none of which may need pickle."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_both_splits_of_the_digits(tiny_run: Path, tmp_path: Path) -> None:
    """Features as evaluations compare them, of 2x2 parts of each image, labels, names, which split, the classes."""
    result = run(EmbedConfig(str(tiny_run), "digits", tmp_path / "f.npz", **CPU))
    assert result["images"] == 1797
    found, digits, weights = read(tmp_path / "f.npz"), moco.load("digits"), moco.load_weights(str(tiny_run))
    assert found.keys() == {"features", "labels", "paths", "splits", "classes"}
    assert (found["features"].shape, found["features"].dtype) == ((1797, 256), np.float32)
    how = Encoding(16, weights.mean, weights.std, unit=False)
    expected = torch.cat([encode(weights.encoder, digits[name], how) for name in ("train", "test")])
    assert np.allclose(found["features"], expected.numpy(), atol=1e-5)
    assert np.array_equal(found["labels"], np.concatenate([digits["train"].labels, digits["test"].labels]))
    assert found["classes"].tolist() == [str(digit) for digit in range(10)]
    assert found["splits"].tolist() == ["train"] * 1437 + ["test"] * 360
    assert found["paths"][1437:1439].tolist() == ["#0", "#1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "f.npz.origin.safetensors"]


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
        ({"out": Path("f.txt")}, r"--out f\.txt: expected a name that ends in \.npz, \.csv, \.npy, \.parquet"),
        ({"features": "map", "unit": True}, "--features map: --unit scales vectors, but a map is not a vector"),
        ({"features": "map", "out": Path("f.csv")}, "a table has a column for each number, but a map is not a vector"),
        ({"add": True}, r"--add: there is no file .*f\.npz: leave --add out"),
        ({"out": Path("gone/f.npz")}, "there is no folder gone"),
    ],
    ids=str,
)
def test_mistakes(tiny_run: Path, tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    """Are one line."""
    with pytest.raises(BadInputError, match=message):
        run(EmbedConfig(str(tiny_run), "digits", **{"out": tmp_path / "f.npz", **flags}, **CPU))


def test_a_full_disk_leaves_the_old_file(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no half of the new one; what was encoded stays for the next call."""
    out = tmp_path / "f.npz"
    out.write_bytes(b"old")

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(BadInputError, match="No space left"):
        run(EmbedConfig(str(tiny_run), "digits", out, split="test", **CPU))
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "f.npz.unfinished"]
    monkeypatch.undo()
    assert run(EmbedConfig(str(tiny_run), "digits", out, split="test", **CPU))["encoded"] == 0
    assert len(read(out)["features"]) == 360


def test_a_full_disk_under_the_pieces(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with where the command goes on."""

    def full(descriptor: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pieces, "_write_through", full)
    with pytest.raises(BadInputError, match=r"f.npz: cannot be written \(No space left.* continues from .*unfinished"):
        run(EmbedConfig(str(tiny_run), "digits", tmp_path / "f.npz", split="test", **CPU))


def test_a_lost_loading_process_is_no_full_disk(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small /dev/shm or a long TMPDIR: what loading says is kept."""

    def lost(*_: object, **__: object) -> None:
        raise ChildProcessError("a loading process cannot pass on its images")

    monkeypatch.setattr(embed, "outputs", lost)
    with pytest.raises(ChildProcessError, match="cannot pass on its images"):
        run(EmbedConfig(str(tiny_run), "digits", tmp_path / "f.npz", split="test", **CPU))


def test_from_the_command_line(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for people, one object for programs."""
    flags = ["--weights", str(tiny_run), "--data", "digits", "--out", str(tmp_path / "f.npz"), "--split", "test"]
    assert main(["embed", *flags, "--device", "cpu", "--threads", "1", "--json"]) == 0
    last, message = capsys.readouterr()
    assert ": features of 360 images, 256 numbers each (test)\n" in message
    assert json.loads(last)["width"] == 256


def written(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class KilledError(BaseException):
    """Nothing catches it."""


def test_killed_at_any_write(tiny_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given again it goes on behind the last whole piece, and writes the bytes of a call that was never killed."""
    monkeypatch.setattr(pieces, "IMAGES_IN_A_PIECE", 2)
    (photos / "10.png").unlink()
    write, whole, encoded = pieces._write_through, tmp_path / "whole", []
    whole.mkdir()
    flags: dict[str, Any] = {"batch_size": 1, **CPU}
    run(EmbedConfig(str(tiny_run), str(photos), whole / "f.npy", **flags))
    for last in range(7):  # the list's first line, and numbers and line of three pieces
        folder, count = tmp_path / str(last), 0
        folder.mkdir()

        def stop(descriptor: int, content: bytes, last: int = last) -> None:
            nonlocal count
            write(descriptor, content if count < last else content[: len(content) // 2])
            if count == last:
                raise KilledError
            count += 1

        monkeypatch.setattr(pieces, "_write_through", stop)
        with pytest.raises(KilledError):
            run(EmbedConfig(str(tiny_run), str(photos), folder / "f.npy", **flags))
        monkeypatch.setattr(pieces, "_write_through", write)
        encoded.append(run(EmbedConfig(str(tiny_run), str(photos), folder / "f.npy", **flags))["encoded"])
        assert written(folder) == written(whole)
    assert encoded == [5, 5, 5, 3, 3, 1, 1]


@pytest.mark.parametrize("name", [pieces.NUMBERS, pieces.LIST])
def test_a_pipe_among_the_pieces(tmp_path: Path, name: str) -> None:
    """It is named; nothing waits for it."""
    folder = tmp_path / f"f.npy{pieces.ENDING}"
    folder.mkdir()
    os.mkfifo(folder / name)
    with (
        pytest.raises(BadInputError, match=f"{name}: expected a regular file"),
        pieces.opened_pieces(tmp_path / "f.npy", {}, 1),
    ):
        pass


def test_one_progress_over_all_pieces(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quick pieces of a long list were encoded without a word: each had a progress of its own."""
    monkeypatch.setattr(pieces, "IMAGES_IN_A_PIECE", 128)
    monkeypatch.setattr("moco.runtime.progress.PATIENCE", 0.0)
    monkeypatch.setattr("moco.runtime.progress.LINE_EVERY", 0.0)
    run(EmbedConfig(str(tiny_run), "digits", tmp_path / "f.npy", split="test", batch_size=64, **CPU))
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if " left" in line]
    assert told == [f"encoding 360 images: {share}%" for share in (17, 33, 50, 67, 83, 100)]


def test_pieces_of_other_settings(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are not taken, nor are those whose bytes were damaged."""
    monkeypatch.setattr(pieces, "IMAGES_IN_A_PIECE", 128)
    out = tmp_path / "f.npz"

    def fail(*_: Any) -> None:
        raise KilledError

    def leave_pieces() -> None:
        monkeypatch.setattr(embed, "write_features", fail)
        with pytest.raises(KilledError):
            run(EmbedConfig(str(tiny_run), "digits", out, split="test", batch_size=128, **CPU))
        monkeypatch.setattr(embed, "write_features", write_features)

    leave_pieces()
    assert run(EmbedConfig(str(tiny_run), "digits", out, split="test", unit=True, **CPU))["encoded"] == 360
    leave_pieces()
    numbers = tmp_path / "f.npz.unfinished" / pieces.NUMBERS
    content = bytearray(numbers.read_bytes())
    content[128 * 256 * 4 + 7] ^= 1  # in the second piece
    numbers.write_bytes(content)
    assert run(EmbedConfig(str(tiny_run), "digits", out, split="test", batch_size=128, **CPU))["encoded"] == 232


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six files."""
    (tmp_path / "photos").mkdir()
    for row in range(6):
        PillowImage.fromarray(moco.load("digits")["train"][row].permute(1, 2, 0).numpy()).save(
            tmp_path / "photos" / f"{2 * row:02}.png"
        )
    return tmp_path / "photos"


@pytest.mark.parametrize("ending", ["npz", "csv", "npy", "parquet"])
def test_new_images_are_added(tiny_run: Path, photos: Path, tmp_path: Path, ending: str) -> None:
    """The others are not encoded again, and the file is that of a call on all of them."""
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    config = EmbedConfig(str(tiny_run), str(photos), tmp_path / f"f.{ending}", **CPU)
    assert run(config)["encoded"] == 6
    for name in ("03.png", "zz.png"):
        (photos / name).write_bytes((photos / "04.png").read_bytes() + b"x")
    result = run(dataclasses.replace(config, add=True))
    assert (result["encoded"], result["images"]) == (2, 8)
    assert run(dataclasses.replace(config, add=True))["encoded"] == 0
    found = read_back(tmp_path / f"f.{ending}")
    run(dataclasses.replace(config, out=tmp_path / f"whole.{ending}"))
    assert np.allclose(found, read_back(tmp_path / f"whole.{ending}"), atol=1e-6)


def read_back(path: Path) -> Any:
    """The features of a file."""
    if path.suffix == ".npz":
        return read(path)["features"]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return np.array([row[3:] for row in csv.reader(file)][1:], np.float32)
    table = importlib.import_module("pyarrow.parquet").read_table(path)
    return np.stack(table["features"].to_numpy(zero_copy_only=False))


def test_an_embedding_older_than_its_images(tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    """Is refused, as are other weights and settings; what was removed or changed is named, and the file stays."""
    config = EmbedConfig(str(tiny_run), str(photos), tmp_path / "f.npz", **CPU)
    run(config)
    before, more = written(tmp_path / "photos"), dataclasses.replace(config, add=True)
    kept = (tmp_path / "f.npz").read_bytes()
    with pytest.raises(BadInputError, match="was made with image size 16, and now it is image size 24"):
        run(dataclasses.replace(more, image_size=24))
    with pytest.raises(BadInputError, match=r"was made with weights [0-9a-f]{12}, and now it is weights [0-9a-f]{12}"):
        run(dataclasses.replace(more, weights="random", like=tiny_run))
    (photos / "00.png").unlink()
    (photos / "02.png").write_bytes(before["04.png"] + b"longer")
    with pytest.raises(BadInputError, match=r"older than.*1 removed \(train/00\.png\) and 1 changed \(train/02\.png\)"):
        run(more)
    assert (tmp_path / "f.npz").read_bytes() == kept
    for name, content in before.items():
        (photos / name).write_bytes(content)
        os.utime(photos / name, ns=(1, 1))
    with pytest.warns(UserWarning, match="treated as copies"):
        assert run(more)["encoded"] == 0


def test_a_stored_embedding_that_is_not_the_described_one(tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    """Is not added to: a kill may have come between both files, or a person changed one."""
    config = EmbedConfig(str(tiny_run), str(photos), tmp_path / "f.npy", **CPU)
    run(config)
    features = np.load(config.out)
    (photos / "zz.png").write_bytes((photos / "00.png").read_bytes())
    for changed in (features[:3], features + 1, features.astype(np.float64)):
        np.save(config.out, changed)
        with pytest.raises(BadInputError, match=r"--add: .*leave --add out"):
            run(dataclasses.replace(config, add=True))
    (tmp_path / "f.npy.origin.safetensors").write_bytes(b"no file of ours")
    with pytest.raises(BadInputError, match="cannot be read"):
        run(dataclasses.replace(config, add=True))


def test_unreadable_images_are_left_out(tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    """And named; they are tried again when images are added. Where none can be read, that is an error."""
    (photos / "05.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    config = EmbedConfig(str(tiny_run), str(photos), tmp_path / "f.npz", features="plain", **CPU)
    with pytest.warns(UserWarning, match=r"left out 1 image that cannot be read: 05\.png"):
        result = run(config)
    assert (result["images"], [one["path"] for one in result["unreadable"]]) == (6, ["05.png"])
    assert "05.png" not in read(config.out)["paths"].tolist()
    (photos / "05.png").write_bytes((photos / "04.png").read_bytes())
    assert run(dataclasses.replace(config, add=True))["encoded"] == 1
    found = read(config.out)
    assert found["paths"].tolist() == sorted(path.name for path in photos.iterdir())
    assert np.allclose(found["features"][3], found["features"][2], atol=1e-6)
    for path in photos.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(BadInputError, match=r"no image can be read; the first of train: .*00\.png"):
        run(config)


@pytest.mark.parametrize("ending", ["npy", "npz", "parquet"])
def test_feature_maps(tiny_run: Path, photos: Path, tmp_path: Path, ending: str) -> None:
    """Their mean over rows and columns is the pooled feature."""
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out, pooled = tmp_path / f"m.{ending}", tmp_path / "f.npy"
    result = run(EmbedConfig(str(tiny_run), str(photos), out, features="map", **CPU))
    run(EmbedConfig(str(tiny_run), str(photos), pooled, features="plain", **CPU))
    found = read_back(out)
    assert result["shape"] == [64, *result["shape"][1:]]
    assert len(result["shape"]) == 3
    assert ending == "parquet" or list(found.shape[1:]) == result["shape"]
    assert np.allclose(found.reshape(6, 64, -1).mean(2), np.load(pooled), atol=1e-5)


def test_a_parquet_file(tiny_run: Path, tmp_path: Path) -> None:
    """Names, classes and numbers are those of the .npz; a name that is not UTF-8 is escaped."""
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in ("npz", "parquet"):
        run(EmbedConfig(str(tiny_run), "digits", tmp_path / f"f.{ending}", split="test", **CPU))
    found, table = read(tmp_path / "f.npz"), parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["path", "split", "label", "features"]
    assert table["path"].to_pylist() == found["paths"].tolist()
    assert table["label"].to_pylist() == found["classes"][found["labels"]].tolist()
    assert np.array_equal(read_back(tmp_path / "f.parquet"), found["features"])
    (tmp_path / "d").mkdir()
    with open(os.path.join(os.fsencode(tmp_path / "d"), b"caf\xe9.png"), "wb") as file:
        PillowImage.new("RGB", (8, 8)).save(file, "PNG")
    run(EmbedConfig(str(tiny_run), str(tmp_path / "d"), tmp_path / "g.parquet", **CPU))
    table = parquet.read_table(tmp_path / "g.parquet")
    assert (table["path"].to_pylist(), table["label"].to_pylist()) == (["caf\\xe9.png"], [None])


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
