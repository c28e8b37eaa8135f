"""Members of shards are read by offset; what is not what was indexed is named and never decoded."""

import copy
import errno
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from moco.data import shards as module
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import load
from moco.data.decoding import decode
from moco.data.images import Images, hold
from moco.data.loader import ViewBatches
from moco.data.samples import Samples
from moco.data.shards import ShardImages
from moco.errors import BadInputError
from tests.data.test_indexing import image, shard

COUNT = 6


@pytest.fixture
def images(tmp_path: Path) -> ShardImages:
    """Six images in three shards."""
    for i in range(0, COUNT, 2):
        shard(tmp_path / "d" / f"{i}.tar", {f"{i}.png": image(i), f"{i + 1}.png": image(i + 1)})
    loaded = load(str(tmp_path / "d"))["train"]
    assert isinstance(loaded, ShardImages)
    return loaded


def refusal(images: ShardImages, index: int) -> str:
    """What is said against an image, in one line that names its shard."""
    with pytest.raises(BadInputError) as caught:
        images[index]
    message = str(caught.value)
    assert message.startswith(str(images.paths[int(images.arrays["shard"][index])]))
    assert images.name(index) in message
    assert len(message.splitlines()) == 1
    return message


def test_the_protocols(images: ShardImages) -> None:
    """Length, image, name, file; what lies outside is an IndexError."""
    assert isinstance(images, Images)
    assert len(images) == COUNT
    assert [images.name(i) for i in (1, 4)] == ["0.tar/1.png", "4.tar/4.png"]
    assert images[3].shape == (3, 5, 7)
    assert images.labels is None
    for outside in (-1, COUNT):
        with pytest.raises(IndexError):
            images[outside]


def test_images_equal_those_of_files(images: ShardImages, tmp_path: Path) -> None:
    """Decoded from the same bytes."""
    for i in range(COUNT):
        (tmp_path / "x.png").write_bytes(image(i))
        assert torch.equal(images[i], decode(tmp_path / "x.png"))


def test_small_ones_are_held_in_memory(images: ShardImages) -> None:
    """Like files."""
    held = hold(images)
    assert held is not images
    assert torch.equal(held[5], images[5])
    assert held.name(5) == "4.tar/5.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_reads_them(images: ShardImages, workers: int) -> None:
    """Also in processes of its own, after files were opened here."""
    images[0]
    batches = ViewBatches(images, AUGMENTATIONS["v1"], 8, (0.5,) * 3, (0.2,) * 3, 2)
    expected = [batches[step] for step in range(3)]
    for found, alone in zip(batches.run(0, 3, workers=workers), expected, strict=True):
        assert torch.equal(found.index, alone.index)
        assert torch.allclose(found.x_q, alone.x_q, atol=1e-6)


# --- damage ---------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(images: ShardImages) -> None:
    """By the checksum, wherever it stands in the image."""
    path, place = images.paths[1], int(images.arrays["offset"][3])
    sound = path.read_bytes()
    for byte in range(place, place + int(images.arrays["length"][3]), 7):
        path.write_bytes(sound[:byte] + bytes([sound[byte] ^ 1]) + sound[byte + 1 :])
        assert "another checksum" in refusal(images, 3)
    path.write_bytes(sound)
    assert images.encoded(3) == image(3)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("size", [0, 600, 1 << 20])
def test_another_size_is_noticed(images: ShardImages, opened: bool, size: int) -> None:
    """Cut off or longer, before it was opened or after; others can still be read."""
    if opened:
        images[2]
    os.truncate(images.paths[1], size)
    message = refusal(images, 2)
    assert f"has {size} bytes" in message
    assert images.encoded(0) == image(0)


def test_a_missing_shard_is_named(images: ShardImages) -> None:
    """It may be deleted while a run goes on."""
    images.paths[1].unlink()
    assert "cannot be read" in refusal(images, 2)


def test_pipes_in_place_of_shards_and_indices(images: ShardImages) -> None:
    """A shard that became one is named, one that is indexed anew is refused, and an index is made anew."""
    place = Path(images.paths[0]).parent / ".moco-index"
    for path in sorted(place.rglob("*.*")):
        path.unlink()
        os.mkfifo(path)
    assert len(load(str(place.parent))["train"]) == len(images)
    images.paths[0].unlink()
    os.mkfifo(images.paths[0])
    assert "the shard has 0 bytes" in refusal(images, 0)
    with pytest.raises(BadInputError, match=r"0\.tar: expected a regular file"):
        Samples().read_shard(0, images.paths[0])


def test_members_are_bounded_as_files_are(images: ShardImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of gigabytes is named and not read; MOCO_MOST_BYTES is the bound."""
    monkeypatch.setattr(module, "MOST_HELD", 100)
    assert "expected at most 100: remove or replace it, or set MOCO_MOST_BYTES" in refusal(images, 0)


@pytest.mark.parametrize(
    ("column", "value"), [("shard", 3), ("shard", -1), ("offset", -1), ("offset", 2**62), ("length", 2**32 - 1)]
)
def test_an_index_that_points_elsewhere(images: ShardImages, column: str, value: int) -> None:
    """No memory is taken for what it claims."""
    images.arrays = {**images.arrays, column: images.arrays[column].copy()}
    images.arrays[column][2] = value
    with pytest.raises(BadInputError, match="the index is damaged"):
        images[2]


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    """The decoder's complaint, with shard and member."""
    path = shard(tmp_path / "d" / "0.tar", {"a.png": b"<html>", "b.png": b""})
    images = load(str(path))["train"]
    for i, name in enumerate("ab"):
        with pytest.raises(BadInputError, match=rf"0\.tar/{name}\.png.*cannot be read as an image"):
            images[i]


# --- open files -----------------------------------------------------------------------------------------------------


def open_files() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="cannot be counted here")
@pytest.mark.parametrize("limit", [0, 1, 256])
def test_open_files_are_limited(images: ShardImages, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is opened and closed every time; all are closed with the set of images."""
    monkeypatch.setattr(module, "KEPT_OPEN", limit)
    before = open_files()
    another = copy.copy(images)  # as another process gets it: without the open files
    for _ in range(2):
        assert [another.encoded(i) for i in range(COUNT)] == [image(i) for i in range(COUNT)]
        assert open_files() - before == min(limit, 3)
    del another
    assert open_files() == before


def test_threads_read_at_once(images: ShardImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its image, whoever opens the files."""
    monkeypatch.setattr(module, "KEPT_OPEN", 2)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, COUNT, 200).tolist():
            if zlib.crc32(images.encoded(i)) != int(images.arrays["checksum"][i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert wrong == []


def test_few_descriptors(images: ShardImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full table of files is no damage: what was kept open is closed, and else it is said."""
    opened, full = os.open, [True]

    def limited(path: object, flags: int, *more: int) -> int:
        if (full[0] and images._open) or full == [True, True]:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "open_limit", lambda: 8)
    assert module.most_kept_open() == 2
    monkeypatch.setattr(os, "open", limited)
    for index in (*range(COUNT), *range(COUNT)):
        assert images.encoded(index) == image(index)
    for descriptor in images._open.values():
        os.close(descriptor)
    images._open.clear()
    full.append(True)
    with pytest.raises(OSError, match="Too many open files"):
        images.encoded(0)
