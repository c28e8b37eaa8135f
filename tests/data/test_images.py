"""Sets of images name them by integer: files, arrays in memory, parts of either."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.data import images as module
from moco.data.decoding import decode
from moco.data.derived import Subset
from moco.data.images import ArrayImages, FileImages, Images, PathTable, hold
from moco.errors import BadInputError
from tests.data.test_decoding import HEIGHT, WIDTH, noise, saved


def test_path_table_gives_back_what_it_was_given() -> None:
    """Names that are not UTF-8, empty ones and an iterator too."""
    paths = [b"a/1.png", b"caf\xe9.jpg", b"", b"new\nline.png", "ü.png".encode()]
    table = PathTable(iter(paths))
    assert len(table) == len(paths)
    assert [table[i] for i in range(len(paths))] == paths
    for outside in (-1, len(paths)):
        with pytest.raises(IndexError):
            table[outside]


def test_empty_path_table() -> None:
    """No path is a table too."""
    assert len(PathTable([])) == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    """A file name is bytes."""
    buffer = io.BytesIO()
    PillowImage.fromarray(noise(HEIGHT, WIDTH, 3)).save(buffer, "png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(buffer.getvalue())
    images = FileImages(os.fsencode(tmp_path), PathTable([b"caf\xe9.png"]))
    assert torch.equal(images[0].permute(1, 2, 0), torch.from_numpy(noise(HEIGHT, WIDTH, 3)))
    assert os.fsencode(images.name(0)) == b"caf\xe9.png"


def file_images(folder: Path, sizes: list[tuple[int, int]]) -> FileImages:
    """An image file of each size, labelled 0, 1, 0, 1, ..."""
    names = [f"{i}.png".encode() for i in range(len(sizes))]
    for name, (height, width) in zip(names, sizes, strict=True):
        saved(folder, name.decode(), np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return FileImages(os.fsencode(folder), PathTable(names), np.arange(len(sizes)) % 2, ("cat", "dog"))


@pytest.mark.parametrize("kind", ["files", "array", "subset of files", "subset of array", "held"])
def test_every_kind_of_set_obeys_the_protocol(tmp_path: Path, kind: str) -> None:
    """Length, image, name, labels and classes."""
    files = file_images(tmp_path, [(8, 8)] * 4)
    array = ArrayImages(torch.stack([files[i] for i in range(4)]), files.labels, files.classes)
    rows = np.array([2, 0])
    images, order = {
        "files": (files, [0, 1, 2, 3]),
        "array": (array, [0, 1, 2, 3]),
        "subset of files": (Subset(files, rows), [2, 0]),
        "subset of array": (Subset(array, rows), [2, 0]),
        "held": (hold(files), [0, 1, 2, 3]),
    }[kind]
    assert isinstance(images, Images)
    assert len(images) == len(order)
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [i % 2 for i in order]
    for position, i in enumerate(order):
        assert torch.equal(images[position], files[i])
        assert images.name(position) == (f"#{i}" if "array" in kind else f"{i}.png")


def test_small_images_of_one_size_are_held_in_memory(tmp_path: Path) -> None:
    """What is held equals what is decoded, and the files are not needed any more."""
    files = file_images(tmp_path, [(6, 9)] * 3)
    expected = [decode(tmp_path / f"{i}.png") for i in range(3)]
    held = hold(files)
    assert isinstance(held, ArrayImages)
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
        assert torch.equal(held[i], expected[i])
        assert held.name(i) == f"{i}.png"
    assert hold(held) is held
    part = Subset(held, np.array([2, 0]))
    assert hold(part) is part


@pytest.mark.parametrize(
    "sizes", [[(6, 9), (6, 9), (9, 6)], [(module.SMALL_IMAGE, module.SMALL_IMAGE + 1)] * 2], ids=["differing", "large"]
)
def test_differing_or_large_images_stay_files(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    """They are decoded whenever they are asked for."""
    files = file_images(tmp_path, sizes)
    assert hold(files) is files


def test_images_beyond_the_memory_budget_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is in bytes: three images of 3 x 8 x 8 are 576."""
    files = file_images(tmp_path, [(8, 8)] * 3)
    monkeypatch.setattr(module, "MEMORY_BUDGET", 575)
    assert hold(files) is files
    monkeypatch.setattr(module, "MEMORY_BUDGET", 576)
    assert isinstance(hold(files), ArrayImages)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_image_is_noted_while_small_images_are_held(tmp_path: Path, bad: int) -> None:
    """Also where it is the first; whoever asks for it learns which one to replace, and the others are there."""
    files = file_images(tmp_path, [(8, 8)] * 3)
    expected = {i: files[i] for i in range(3) if i != bad}
    (tmp_path / f"{bad}.png").write_bytes(b"")
    held = hold(files)
    assert isinstance(held, ArrayImages)
    assert list(held.unreadable) == [bad]
    for i, image in expected.items():
        assert torch.equal(held[i], image)
    with pytest.raises(BadInputError, match=rf"{bad}\.png: cannot be read as an image"):
        held[bad]


def test_where_most_images_are_bad_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run will say so; a set of which nothing can be read is not waited for to its end."""
    files = file_images(tmp_path, [(8, 8)] * 6)
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    monkeypatch.setattr(module, "MOST_UNREADABLE", 3)
    assert hold(files) is files
    monkeypatch.setattr(module, "MOST_UNREADABLE", 4)
    assert isinstance(hold(files), ArrayImages)
