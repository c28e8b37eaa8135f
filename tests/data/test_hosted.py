"""Data sets on huggingface.co, by the real library and a server on this machine."""

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from moco.data import notes
from moco.data.catalog import load
from moco.errors import BadInputError
from tests.data.test_layout import png
from tests.fakehub import FakeHub, fake_hub

pyarrow: Any = importlib.import_module("pyarrow")
written: Any = importlib.import_module("pyarrow.parquet")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without repositories, and empty caches."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(notes, "_printed", set())
    with fake_hub(monkeypatch, tmp_path / "cache") as started:
        yield started


def parquet(*labels: str) -> bytes:
    """A Parquet file of images, whose sizes tell them apart."""
    buffer, pictures = io.BytesIO(), []
    for number, _ in enumerate(labels, 1):
        picture = io.BytesIO()
        PillowImage.new("RGB", (number, 2)).save(picture, "png")
        pictures.append(picture.getvalue())
    written.write_table(pyarrow.table({"image": pictures, "label": list(labels)}), buffer)
    return buffer.getvalue()


def widths(data: str) -> dict[str, list[int]]:
    """The width of each image of each split."""
    splits = load(data)
    return {split: [images[row].shape[2] for row in range(len(images))] for split, images in splits.items()}


def refusal(data: str) -> str:
    """What is said against it, in one line."""
    with pytest.raises(BadInputError) as caught:
        load(data)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_parquet_files_of_a_repository(hub: FakeHub) -> None:
    """Its splits; nothing else is fetched, and the second time there is no network."""
    hub.repositories["datasets/a/b"] = {
        "data/train-00000-of-00001.parquet": parquet("x", "y"), "data/test-00000-of-00001.parquet": parquet("y"),
        "README.md": b"words", "b.py": b"raise SystemExit",
    }  # fmt: skip
    assert widths("hf://datasets/a/b") == {"train": [1, 2], "test": [1]}
    assert not [asked for asked in hub.asked if asked.endswith(".py")]
    hub.shutdown()
    hub.server_close()
    assert widths("hf://datasets/a/b") == {"train": [1, 2], "test": [1]}
    assert "cannot be fetched" in refusal("hf://datasets/a/c")


def test_folders_and_files_of_a_repository(hub: FakeHub) -> None:
    """One of several sets, a single file, image files in class folders, and what the hub made of a script's set."""
    hub.repositories["datasets/a/two"] = {"one/train.parquet": parquet("x"), "other/train.parquet": parquet("x", "y")}
    assert "several data sets, in one, other" in refusal("hf://datasets/a/two")
    assert widths("hf://datasets/a/two/other") == {"train": [1, 2]}
    assert widths("hf://datasets/a/two@main/one/train.parquet") == {"train": [1]}
    hub.repositories["datasets/a/files"] = {"train/cat/1.png": png(), "train/dog/2.png": png(), "x.py": b""}
    images = load("hf://datasets/a/files")["train"]
    assert images.classes == ("cat", "dog")


def test_repositories_without_images(hub: FakeHub) -> None:
    """A script is not run; a damaged file is refused; a name that leads elsewhere is not followed."""
    hub.repositories["datasets/a/script"] = {"script.py": b"raise SystemExit", "../x.parquet": parquet("x")}
    assert "a script that loads a data set is not run" in refusal("hf://datasets/a/script")
    hub.repositories["datasets/a/b"] = {"train.parquet": parquet(*"xy" * 40)}
    hub.damaged = True
    assert "is damaged, its SHA-256 is" in refusal("hf://datasets/a/b")
