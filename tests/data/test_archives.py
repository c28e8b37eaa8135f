"""Archives are unpacked once; what else may be given for --data is refused by what it is."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.data import archives
from moco.data.catalog import load
from moco.errors import BadInputError
from tests.data.test_layout import make_tar, png

PATHS = ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png", "__MACOSX/train/a/._1.png")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "home"


def archive(root: Path, name: str) -> Path:
    """An archive of the kind that its name says, of two splits of two classes."""
    path = root / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for member in PATHS:
                out.writestr(member, png())
    else:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for member in PATHS:
                info = tarfile.TarInfo(member)
                info.size = len(png())
                tar.addfile(info, io.BytesIO(png()))
        compress: dict[str, Callable[[bytes], bytes]] = {
            "gz": gzip.compress, "tgz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
        }  # fmt: skip
        path.write_bytes(compress[name.rpartition(".")[2]](buffer.getvalue()))
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"])
def test_an_archive_is_unpacked_once(tmp_path: Path, home: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a tar file, with its splits and classes; what the system put in does not count."""
    path = archive(tmp_path, name)
    splits = load(str(path))
    assert {split: (len(images), images.classes) for split, images in splits.items()} == {
        "train": (2, ("a", "b")), "test": (2, ("a", "b")),
    }  # fmt: skip
    assert splits["train"][0].shape == (3, 2, 2)
    assert f"unpacking it once into {home}" in capsys.readouterr().err
    load(str(path))
    assert "unpacking" not in capsys.readouterr().err
    assert [file.name for file in home.rglob("*.tar") if file.is_file()] == ["x.tar"]


def test_an_archive_without_images(tmp_path: Path, home: Path) -> None:
    """The line names what was given, and not what was made of it."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr("inner.zip", b"")
    with pytest.raises(BadInputError, match="no image in its tar files") as caught:
        load(str(tmp_path / "x.zip"))
    assert str(tmp_path / "x.zip") in str(caught.value)
    assert str(home) not in str(caught.value)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_damaged_archive(tmp_path: Path, home: Path, name: str) -> None:
    """One line, and nothing stays behind."""
    path = archive(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BadInputError, match=f"{name}: cannot be unpacked"):
        load(str(path))
    assert [file for file in home.rglob("*") if file.is_file()] == []


def test_a_bomb_is_refused(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than images can take."""
    monkeypatch.setattr(archives, "LEAST_LIMIT", 1000)
    monkeypatch.setattr(archives, "LARGEST_RATIO", 1)
    with pytest.raises(BadInputError, match="unpacks to more than"):
        load(str(archive(tmp_path, "x.tar.gz")))
    assert [file for file in home.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("name", "what"),
    [("x.png", "one image (PNG)"), ("x.npz", "zip"), ("x.npy", "NumPy"), ("x.json", "JSON"), ("x.html", "HTML"),
     ("x.7z", "7-Zip"), ("x.gz", "holds no tar file")],
)  # fmt: skip
def test_other_files_are_named_for_what_they_are(tmp_path: Path, name: str, what: str) -> None:
    """Never as a list with escapes."""
    path = tmp_path / name
    if name == "x.png":
        PillowImage.new("RGB", (2, 2)).save(path)
    elif name == "x.npz":
        np.savez(path, a=np.zeros(3))
    elif name == "x.npy":
        np.save(path, np.zeros(3))
    else:
        contents = {"json": b'{"a": 1}', "html": b"<html>", "7z": b"7z\xbc\xaf\x27\x1c" + bytes(99)}
        contents["gz"] = gzip.compress(b"no tar" * 200)
        path.write_bytes(contents[name.rpartition(".")[2]])
    with pytest.raises(BadInputError) as caught:
        load(str(path))
    assert what in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_tar_file_of_another_name(tmp_path: Path) -> None:
    """It is known by its content."""
    path = make_tar(tmp_path / "x.tar", "1.png")
    path.rename(tmp_path / "images")
    assert len(load(str(tmp_path / "images"))["train"]) == 1
