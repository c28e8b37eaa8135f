"""Shards that other tools made are indexed on first use: against the standard library's tarfile and zlib."""

import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from moco.data import columns, indexing, samples
from moco.data.catalog import load
from moco.data.images import EXTENSIONS, Images
from moco.data.notes import Notes
from moco.data.shards import ShardImages
from moco.data.tar import Member
from moco.data.tar import read_members as members_of
from moco.errors import BadInputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indices are kept in an empty folder, where not beside the shards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def image(seed: int = 0, ending: str = "png") -> bytes:
    """An image file of noise."""
    buffer, pixels = io.BytesIO(), np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(buffer, {"jpg": "jpeg"}.get(ending, ending))
    return buffer.getvalue()


def shard(path: Path, content: Mapping[str, bytes]) -> Path:
    """A tar file of these members, written by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def train(data: Path) -> ShardImages:
    """The only split."""
    splits = load(str(data))
    assert list(splits) == ["train"]
    images = splits["train"]
    assert isinstance(images, ShardImages)
    return images


def names(images: Images) -> list[str]:
    """The names of all images."""
    return [images.name(i) for i in range(len(images))]


def labels(images: Images) -> list[int]:
    """The labels of all images."""
    assert images.labels is not None
    return [int(label) for label in images.labels]


def refusal(data: Path) -> str:
    """What `load` says against it, in one line."""
    with pytest.raises(BadInputError) as caught:
        load(str(data))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- images and classes ---------------------------------------------------------------------------------------------


def test_images_and_classes(tmp_path: Path) -> None:
    """In the order of the shards' names and of their members; the same bytes, pixels, checksums and labels."""
    files = {f"{i:03}": (image(i, ending), ending) for i, ending in enumerate(("png", "jpg", "webp", "png"))}
    for number, keys in (("1", ("000", "001")), ("0", ("002", "003"))):
        members: dict[str, bytes] = {}
        for key in keys:
            members |= {f"{key}.{files[key][1]}": files[key][0], f"{key}.cls": str(7 - int(key)).encode()}
        shard(tmp_path / "d" / f"{number}.tar", members)
    images = train(tmp_path / "d")
    assert names(images) == ["0.tar/002.webp", "0.tar/003.png", "1.tar/000.png", "1.tar/001.jpg"]
    assert labels(images) == [5, 4, 7, 6]
    assert images.classes == tuple("01234567")
    for i, key in enumerate(("002", "003", "000", "001")):
        content, _ = files[key]
        assert images.encoded(i) == content
        assert images.arrays["checksum"][i] == zlib.crc32(content)
        with PillowImage.open(io.BytesIO(content)) as file:
            assert torch.equal(images[i].permute(1, 2, 0), torch.from_numpy(np.array(file.convert("RGB"))))


keys = st.text("ab-_", min_size=1, max_size=4)
folders = st.sampled_from(["", "x/", "x/y/", "../", "/", "./"])
endings = st.sampled_from(["jpg", "PNG", "left.jpeg", "cls", "json", "txt", "jpg.txt", ""])
members = st.lists(st.tuples(folders, keys, endings).map(lambda part: f"{part[0]}{part[1]}.{part[2]}"), unique=True)


@given(st.lists(members, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_any_members(tmp_path_factory: pytest.TempPathFactory, shards: list[list[str]]) -> None:
    """Which are images, which class they have and where they lie: as WebDataset's own pattern splits their names.

    KEY.left.jpeg is no image where there is KEY.jpg or KEY.PNG.
    """
    shards = [sorted(listed, key=lambda name: name[: len(name) - len(name.rpartition("/")[2].partition(".")[2])])
              for listed in shards]  # fmt: skip
    folder = tmp_path_factory.mktemp("shards")
    expected = []
    for number, listed in enumerate(shards):
        contents = {name: str(i).encode() for i, name in enumerate(listed)}
        path = shard(folder / f"{number}.tar", contents)
        groups: list[tuple[str, list[str]]] = []
        for name in listed:
            split = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", name)
            if split and split[2]:
                if not groups or groups[-1][0] != split[1]:
                    groups.append((split[1], []))
                groups[-1][1].append(name)
        with tarfile.open(path) as tar:
            for key, group in groups:
                cls = next((name for name in reversed(group) if name.endswith(".cls")), None)
                label = None if cls is None else int(contents[cls])
                expected += [
                    (number, tar.getmember(name).offset_data, zlib.crc32(contents[name]), f"{number}.tar/{name}", label)
                    for name in group
                    if name.lower().endswith((".jpg", ".png", ".jpeg"))
                    and not (name.endswith(".left.jpeg") and {f"{key}.jpg", f"{key}.PNG"} & set(group))
                ]
    rows, found, classes, _, _ = indexing.index_shards(sorted(folder.glob("*.tar")))
    arrays = rows.columns(found)
    ends = arrays["name_ends"]
    assert [
        (shard, place, checksum, arrays["names"][ends[i] : ends[i + 1]].tobytes().decode())
        for i, (shard, place, checksum) in enumerate(
            zip(*(arrays[name].tolist() for name in ("shard", "offset", "checksum")), strict=True)
        )
    ] == [row[:4] for row in expected]
    if not expected or any(row[4] is None for row in expected):
        assert found is None
        assert classes == ()
    else:
        assert found is not None
        assert [int(classes[label]) for label in found] == [row[4] for row in expected]


@pytest.mark.parametrize(
    ("given", "expected", "classes"),
    [
        (["1", "0"], [1, 0], ("0", "1")),
        ([" 2\n", "02"], [2, 2], ("0", "1", "2")),
        (["dog", "cat"], [1, 0], ("cat", "dog")),
        (["dog", "2"], [1, 0], ("2", "dog")),
        (["1234567", "0"], [1, 0], ("0", "1234567")),
        (["1", "-1"], None, ()),
        (["1", None], None, ()),
    ],
    ids=str,
)
def test_kinds_of_classes(
    tmp_path: Path, given: list[str | None], expected: list[int] | None, classes: tuple[str, ...]
) -> None:
    """Numbers, names, and none: where one image has none, the set has none."""
    content = {}
    for i, text in enumerate(given):
        content[f"{i}.png"] = image()
        if text is not None:
            content[f"{i}.cls"] = text.encode()
    images = train(shard(tmp_path / "d" / "0.tar", content).parent)
    assert images.classes == classes
    assert images.labels is None if expected is None else labels(images) == expected


def test_a_class_may_stand_before_its_image(tmp_path: Path) -> None:
    """And what is no image is passed over."""
    content = {"a.cls": b"3", "a.json": b"{}", "a.png": image(), "b.png": image(1), "b.txt": b"", "b.cls": b"1"}
    assert labels(train(shard(tmp_path / "d" / "0.tar", content))) == [3, 1]


def test_a_class_of_pages_is_refused(tmp_path: Path) -> None:
    """The message names shard and member."""
    message = refusal(shard(tmp_path / "0.tar", {"a.png": image(), "a.cls": bytes(257)}))
    assert "0.tar (a.cls)" in message
    assert "257 bytes" in message


def test_no_image(tmp_path: Path) -> None:
    """The message says what was expected."""
    message = refusal(shard(tmp_path / "d" / "0.tar", {"a.txt": b"", ".hidden.png": image()}).parent)
    assert "no image in its tar files" in message
    assert all(ending in message for ending in EXTENSIONS)


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    """Nothing is written, and no other file is read, whatever a member is called or links to."""
    (tmp_path / "secret.png").write_bytes(image(9))
    path = tmp_path / "d" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for kind, name, link in (
            (tarfile.SYMTYPE, "link.png", str(tmp_path / "secret.png")),
            (tarfile.LNKTYPE, "hard.png", "../secret.png"),
            (tarfile.CHRTYPE, "device.png", ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
        for name in ("../../up.png", "/absolute.png", "new\nline.png", "\x1b[2J.png"):
            info = tarfile.TarInfo(name)
            info.size = len(image())
            tar.addfile(info, io.BytesIO(image()))
    before = sorted(tmp_path.rglob("*"))
    images = train(path)
    assert names(images) == [
        f"0.tar/{name}" for name in ("../../up.png", "/absolute.png", "new\nline.png", "\x1b[2J.png")
    ]
    assert all(images.encoded(i) == image() for i in range(4))
    new = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert all(indexing.INDEX_FOLDER in path.parts for path in new)
    assert not Path("/absolute.png").exists()


# --- splits ---------------------------------------------------------------------------------------------------------


def test_split_folders(tmp_path: Path) -> None:
    """Of shards, and one of shards beside one of images; classes are numbered as in train."""
    shard(tmp_path / "train" / "0.tar", {"1.png": image(), "1.cls": b"cat", "2.png": image(), "2.cls": b"dog"})
    shard(tmp_path / "val" / "0.tar", {"1.png": image(), "1.cls": b"dog"})
    (tmp_path / "test" / "dog").mkdir(parents=True)
    (tmp_path / "test" / "dog" / "1.png").write_bytes(image())
    splits = load(str(tmp_path))
    assert {split: labels(images) for split, images in splits.items()} == {"train": [0, 1], "val": [1], "test": [1]}
    assert {images.classes for images in splits.values()} == {("cat", "dog")}


def test_splits_by_name(tmp_path: Path) -> None:
    """As WebDataset's own examples are called."""
    for name, count in (("imagenet-train-000000", 2), ("imagenet-train-000001", 1), ("imagenet-val-000000", 1)):
        shard(tmp_path / f"{name}.tar", {f"{i}.png": image(i) for i in range(count)})
    splits = load(str(tmp_path))
    assert {split: len(images) for split, images in splits.items()} == {"train": 3, "val": 1}
    assert [len(images) for images in load(str(tmp_path)).values()] == [3, 1]


def test_a_split_that_is_not_told(tmp_path: Path) -> None:
    """Some say train: then all must say what they are. The message names the first that does not."""
    for name in ("a-train-0", "a-0", "b-0"):
        shard(tmp_path / f"{name}.tar", {"1.png": image()})
    assert "a-0.tar" in refusal(tmp_path)


def test_names_without_train_are_no_splits(tmp_path: Path) -> None:
    """As with folders: all is train."""
    for name in ("test-0", "val-0", "more"):
        shard(tmp_path / f"{name}.tar", {"1.png": image()})
    assert len(train(tmp_path)) == 3


def test_unknown_class(tmp_path: Path) -> None:
    """A split must not have a class that train lacks."""
    shard(tmp_path / "train" / "0.tar", {"1.png": image(), "1.cls": b"1"})
    shard(tmp_path / "val" / "0.tar", {"1.png": image(), "1.cls": b"2"})
    assert "class '2'" in refusal(tmp_path)


def test_images_go_before_shards(tmp_path: Path) -> None:
    """An archive that lies beside the images unpacked from it is not taken for the data."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(image())
    shard(tmp_path / "all.tar", {"1.png": image(), "2.png": image()})
    assert len(load(str(tmp_path))["train"]) == 1


def test_a_single_shard(tmp_path: Path) -> None:
    """Given by its name; others beside it are not read."""
    for name in ("a", "b"):
        shard(tmp_path / f"{name}.tar", {f"{name}.png": image()})
    assert names(train(tmp_path / "b.tar")) == ["b.tar/b.png"]
    assert len(train(tmp_path)) == 2
    assert names(train(tmp_path / "b.tar")) == ["b.tar/b.png"]


# --- the index ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two shards."""
    shard(tmp_path / "d" / "0.tar", {"1.png": image(1), "1.cls": b"1", "2.png": image(2), "2.cls": b"0"})
    return shard(tmp_path / "d" / "1.tar", {"3.png": image(3), "3.cls": b"1"}).parent


def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are read through from now on."""
    seen: list[str] = []

    def counted(descriptor: int, path: str, notes: Notes) -> Iterator[Member]:
        seen.append(Path(path).name)
        return members_of(descriptor, path, notes)

    monkeypatch.setattr(samples, "read_members", counted)
    return seen


def test_shards_are_indexed_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index lies beside them, as flat arrays that are mapped."""
    found, seen = train(shards), readings(monkeypatch)
    again = train(shards)
    assert seen == []
    assert names(again) == names(found)
    assert labels(again) == labels(found) == [1, 0, 1]
    assert again.classes == ("0", "1")
    assert [again.encoded(i) for i in range(3)] == [image(1), image(2), image(3)]
    stored = np.load(shards / indexing.INDEX_FOLDER / "train" / "offset.npy")
    with tarfile.open(shards / "0.tar") as tar:
        assert stored[:2].tolist() == [tar.getmember("1.png").offset_data, tar.getmember("2.png").offset_data]


def test_where_the_folder_cannot_be_written(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index goes into the cache, and is found there."""
    (shards / indexing.INDEX_FOLDER).touch()
    assert len(train(shards)) == 3
    assert list(cache.rglob("offset.npy"))
    seen = readings(monkeypatch)
    assert len(train(shards)) == 3
    assert seen == []


def test_where_nothing_can_be_written(shards: Path, cache: Path) -> None:
    """A warning, and the images all the same."""
    (shards / indexing.INDEX_FOLDER).touch()
    cache.touch()
    with pytest.warns(UserWarning, match="cannot be kept"):
        images = train(shards)
    assert images.encoded(2) == image(3)
    assert labels(images) == [1, 0, 1]


@pytest.mark.parametrize("change", ["content", "new", "less", "name", "time"])
def test_changed_shards_are_indexed_anew(shards: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size, another time, one more, one less, another name."""
    train(shards)
    if change == "content":
        shard(shards / "1.tar", {f"{i}.png": image(4) for i in range(30)})
    elif change == "new":
        shard(shards / "2.tar", {"4.png": image(4)})
    elif change == "less":
        (shards / "0.tar").unlink()
    elif change == "name":
        (shards / "0.tar").rename(shards / "2.tar")
    else:
        os.utime(shards / "0.tar", ns=(0, 0))
    seen = readings(monkeypatch)
    images = train(shards)
    assert seen == sorted(path.name for path in shards.glob("*.tar"))
    assert len(images) == {"content": 32, "new": 4, "less": 1, "name": 3, "time": 3}[change]
    assert all(images[i].shape == (3, 5, 7) for i in range(len(images)))


@pytest.mark.parametrize("name", [f"{column}.npy" for column in samples.Rows().columns(None)] + ["index.json"])
def test_a_damaged_index_is_made_anew(shards: Path, name: str) -> None:
    """Nobody has to know that it is there."""
    train(shards)
    path = shards / indexing.INDEX_FOLDER / "train" / name
    path.write_bytes(path.read_bytes()[:-1])
    assert [train(shards).encoded(i) for i in range(3)] == [image(1), image(2), image(3)]


def test_shards_that_change_meanwhile(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index would be of neither the old nor the new ones."""
    read = indexing.index_shards

    def disturbed(paths: list[Path]) -> object:
        result = read(paths)
        os.utime(paths[0], ns=(0, 0))
        return result

    monkeypatch.setattr(indexing, "index_shards", disturbed)
    assert "changed while they were indexed" in refusal(shards)


@pytest.mark.parametrize("damage", ["cut off", "header", "no tar"])
def test_a_damaged_shard_is_named(shards: Path, damage: str) -> None:
    """While it is indexed; no index is left."""
    content = (shards / "1.tar").read_bytes()
    bad = {"cut off": content[:700], "header": content[:10] + b"\xff" + content[11:], "no tar": b"<html>" * 200}[damage]
    (shards / "1.tar").write_bytes(bad)
    assert "1.tar: at byte " in refusal(shards)
    assert not (shards / indexing.INDEX_FOLDER).exists()


def test_two_processes_index_at_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both get their images; one index is left, and it is whole."""
    save = columns.save_columns

    def twice(place: Path, arrays: dict[str, columns.Column], facts: columns.Facts) -> None:
        save(place, arrays, facts)  # the other process was faster
        save(place, arrays, facts)

    monkeypatch.setattr(columns, "save_columns", twice)
    assert len(train(shards)) == 3
    assert [path.name for path in (shards / indexing.INDEX_FOLDER).iterdir()] == ["train"]
    assert len(train(shards)) == 3
