"""A pack holds the images that went into it, in their order, and is there whole or not at all."""

import functools
import itertools
import json
import os
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as PillowImage

from moco.cli import main
from moco.commands.pack import run
from moco.data import indexing, pack
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import load
from moco.data.config import PackConfig
from moco.data.images import ArrayImages, Images, Split, hold
from moco.data.loader import ViewBatches
from moco.data.pack import write_aside
from moco.data.settling import Asked
from moco.data.shards import ShardImages
from moco.errors import BadInputError
from tests.faults.processes import start_program, until

pytestmark = pytest.mark.usefixtures("few_digits")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices are kept in an empty folder, where not beside the shards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders with train and test: PNG and JPEG files of different sizes, one of them with an odd name."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    names = ["train/cat/1.png", "train/cat/2.JPG", "train/dog/caf\udce9 \n.jpeg", "train/dog/9.png", "test/dog/1.jpg"]
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30 + i, 40 - 2 * i, 3), dtype=np.uint8)
        PillowImage.fromarray(pixels).save(path, "png" if name.endswith("png") else "jpeg")
    return root


def packed(data: Path | str, out: Path, **flags: Any) -> dict[Split, Images]:
    """What is loaded from a new pack."""
    run(PackConfig(str(data), out, **flags))
    return load(str(out))


def check_same(found: dict[Split, Images], expected: dict[Split, Images]) -> None:
    """Splits, order, pixels, labels, classes and names."""
    assert found.keys() == expected.keys()
    for split, images in expected.items():
        other = found[split]
        assert len(other) == len(images)
        assert other.classes == images.classes
        assert (None if other.labels is None else other.labels.tolist()) == (
            None if images.labels is None else images.labels.tolist()
        )
        assert [other.name(i) for i in range(len(images))] == [images.name(i) for i in range(len(images))]
        assert all(torch.equal(other[i], images[i]) for i in range(len(images)))


def refusal(data: Path | str, out: Path, **flags: Any) -> str:
    """What is said against it, in one line; nothing is left behind."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(BadInputError) as caught:
        run(PackConfig(str(data), out, **flags))
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(out.parent.rglob("*")) == before
    return str(caught.value)


# --- what is in it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrays", "shards"])
def test_the_digits(tmp_path: Path, form: str) -> None:
    """Both formats give back 480 + 120 images; many shards make no difference."""
    found = packed("digits", tmp_path / "p", format=form, shard_bytes=100_000)
    expected = load("digits")
    check_same(found, expected)
    kind = ArrayImages if form == "arrays" else ShardImages
    assert all(isinstance(images, kind) for images in found.values())
    assert (len(list((tmp_path / "p").rglob("*.tar"))) > 10) == (form == "shards")


def test_photographs(photos: Path, tmp_path: Path) -> None:
    """The files' own bytes lie in the shards."""
    found, expected = packed(photos, tmp_path / "p"), load(str(photos))
    check_same(found, expected)
    train = found["train"]
    assert isinstance(train, ShardImages)
    for i, path in enumerate(sorted((photos / "train").rglob("*.*"), key=os.fsencode)):
        assert train.encoded(i) == path.read_bytes()


def test_a_pack_of_a_pack(photos: Path, tmp_path: Path) -> None:
    """From shards to shards to arrays to shards: names, labels and classes stay."""
    packed(photos, tmp_path / "1")
    check_same(packed(tmp_path / "1", tmp_path / "2"), load(str(photos)))
    arrays = packed(tmp_path / "2", tmp_path / "3", image_size=16)
    check_same(packed(tmp_path / "3", tmp_path / "4", format="shards"), arrays)


def test_without_labels(photos: Path, tmp_path: Path) -> None:
    """A flat folder has none, and its pack neither."""
    for form in ("arrays", "shards"):
        found = packed(photos / "test" / "dog", tmp_path / form, format=form)
        check_same(found, load(str(photos / "test" / "dog")))
        assert found["train"].labels is None


def test_the_shards_are_webdataset_s(photos: Path, tmp_path: Path) -> None:
    """Members KEY.EXTENSION and KEY.cls with safe keys, as the standard library reads them; names stay in the index."""
    run(PackConfig(str(photos), tmp_path / "p"))
    with tarfile.open(tmp_path / "p" / "train" / "000000.tar") as tar:
        listed = {info.name: info for info in tar}
        assert list(listed) == [
            "000000000.png", "000000000.cls", "000000001.jpg", "000000001.cls",
            "000000002.png", "000000002.cls", "000000003.jpeg", "000000003.cls",
        ]  # fmt: skip
        assert all(
            info.isreg() and info.mode == 0o644 and info.uid == 0 and info.mtime == 0 for info in listed.values()
        )
        classes = [tar.extractfile(name) for name in listed if name.endswith("cls")]
        assert [file.read() for file in classes if file] == [b"0", b"0", b"1", b"1"]
    index = tmp_path / "p" / "train" / "index"
    content = (tmp_path / "p" / "train" / "000000.tar").read_bytes()
    for i, info in enumerate(info for name, info in listed.items() if not name.endswith("cls")):
        assert np.load(index / "shard.npy")[i] == 0
        assert np.load(index / "offset.npy")[i] == info.offset_data
        assert np.load(index / "length.npy")[i] == info.size
        data = content[info.offset_data : info.offset_data + info.size]
        assert np.load(index / "checksum.npy")[i] == zlib.crc32(data)


def test_the_index_equals_that_of_a_reader(photos: Path, tmp_path: Path) -> None:
    """What is noted while writing is what is found by reading the shards through."""
    run(PackConfig(str(photos), tmp_path / "p", shard_bytes=10_240))
    paths = sorted((tmp_path / "p" / "train").glob("*.tar"))
    rows, labels, classes, _, _ = indexing.index_shards(paths)
    for name, column in rows.columns(labels).items():
        if name not in ("names", "name_ends"):
            assert np.array_equal(column, np.load(tmp_path / "p" / "train" / "index" / f"{name}.npy")), name
    assert len(paths) > 1
    assert classes == ("0", "1")


def test_shards_are_limited_in_size(photos: Path, tmp_path: Path) -> None:
    """None is larger than asked for, and none could have taken the next one's first image."""
    run(PackConfig("digits", tmp_path / "p", format="shards", shard_bytes=102_400))
    sizes = [path.stat().st_size for path in sorted((tmp_path / "p" / "train").glob("*.tar"))]
    assert max(sizes) <= 102_400
    assert min(sizes[:-1]) > 102_400 - 10_240  # tar files come in pieces of 10,240 bytes
    run(PackConfig(str(photos), tmp_path / "q", format="shards", shard_bytes=1))
    assert len(list((tmp_path / "q" / "train").glob("*.tar"))) == 4


@pytest.mark.parametrize("form", ["arrays", "shards"])
def test_training_sees_the_same_views(tmp_path: Path, form: str) -> None:
    """Bit for bit, in the same order, as from the folder: a pack changes nothing but the speed."""
    (tmp_path / "d").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        PillowImage.fromarray(pixels).save(tmp_path / "d" / f"{i:02}.png")
    direct = load(str(tmp_path / "d"))["train"]
    if form == "arrays":
        direct = hold(direct)
    there = packed(tmp_path / "d", tmp_path / "p", format=form)["train"]
    for step in range(4):
        a, b = (
            ViewBatches(images, AUGMENTATIONS["v2"], 16, (0.5,) * 3, (0.2,) * 3, 4)[step] for images in (direct, there)
        )
        assert a.x_k is not None
        assert b.x_k is not None
        assert torch.equal(a.x_q, b.x_q)
        assert torch.equal(a.x_k, b.x_k)
        assert torch.equal(a.index, b.index)
        assert a.replaced == b.replaced == ()


# --- the choice of the format ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "form"),
    [([(8, 8), (8, 8)], "arrays"), ([(96, 20)], "arrays"), ([(97, 8)], "shards"), ([(8, 8), (8, 9)], "shards")],
    ids=str,
)
def test_the_format_suits_the_images(tmp_path: Path, sizes: list[tuple[int, int]], form: str) -> None:
    """Arrays for small images of one size."""
    (tmp_path / "d").mkdir()
    for i, size in enumerate(sizes):
        PillowImage.new("RGB", size).save(tmp_path / "d" / f"{i}.png")
    result = run(PackConfig(str(tmp_path / "d"), tmp_path / "p"))
    assert result["format"] == form
    left = {path.name for path in (tmp_path / "p" / "train").iterdir()}
    assert left == ({"pixels.npy", "index"} if form == "arrays" else {"000000.tar", "index"})


def test_arrays_of_different_sizes_are_refused(photos: Path, tmp_path: Path) -> None:
    """The message names the image and the ways out."""
    message = refusal(photos, tmp_path / "out" / "p", format="arrays")
    assert "cat/2.JPG" in message
    assert "--image-size" in message


def test_images_are_brought_to_a_size(photos: Path, tmp_path: Path) -> None:
    """The shorter side resized and the centre kept, within one level of Pillow's own antialiased filter."""
    found = packed(photos, tmp_path / "p", image_size=16)["train"]
    assert isinstance(found, ArrayImages)
    assert found.pixels.shape == (4, 3, 16, 16)
    with PillowImage.open(photos / "train" / "cat" / "1.png") as file:  # 40 wide, 30 high: 21 x 16
        resized = file.resize((21, 16), PillowImage.Resampling.BILINEAR)
        expected = np.asarray(resized.crop((2, 0, 18, 16))).astype(int)
    assert np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_a_size_for_shards_is_refused(tmp_path: Path) -> None:
    """They hold the files as they are."""
    assert "--image-size" in refusal("digits", tmp_path / "out" / "p", format="shards", image_size=8)


# --- other channels than RGB ----------------------------------------------------------------------------------------


def bands(root: Path, count: int = 6, channels: int = 4, side: int = 12, ending: str = "tif") -> str:
    """Images of four channels and 16 bits, in two classes."""
    rng = np.random.default_rng(3)
    for i in range(count):
        path = root / "ab"[i % 2] / f"{i}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 60000, (channels, side, side)).astype(np.uint16)
        if ending == "npy":
            np.save(path, values)
        else:
            tifffile.imwrite(path, values, photometric="minisblack", planarconfig="separate")
    return str(root)


def read(data: Path | str, **asked: Any) -> dict[Split, Images]:
    """The images of a set as pretrain reads them."""
    return load(str(data), form=Asked(**{"channels": "auto", **asked}))


@pytest.mark.parametrize("ending", ["tif", "npy"])
@pytest.mark.parametrize("form", ["arrays", "shards", "auto"])
def test_channels_keep_their_depth(tmp_path: Path, form: Literal["arrays", "shards", "auto"], ending: str) -> None:
    """A pack gives what the files give, value for value, with their mean and deviation; arrays suit small ones."""
    expected = read(bands(tmp_path / "x", ending=ending))
    run(PackConfig(str(tmp_path / "x"), tmp_path / "p", format=form))
    found = read(tmp_path / "p")
    check_same(found, expected)
    assert isinstance(found["train"], ShardImages if form == "shards" else ArrayImages)
    assert found["train"].form == expected["train"].form
    again = PackConfig(str(tmp_path / "p"), tmp_path / "q", format="shards" if form == "arrays" else "arrays")
    run(again)
    back = read(tmp_path / "q")["train"]
    assert all(torch.equal(back[row], expected["train"][row]) for row in range(6))


def test_views_of_packed_channels(tmp_path: Path) -> None:
    """They are those of the files, bit for bit."""
    direct = hold(read(bands(tmp_path / "x"))["train"])
    run(PackConfig(str(tmp_path / "x"), tmp_path / "p"))
    assert direct.form is not None
    look = AUGMENTATIONS["v2"], 8, direct.form.mean, direct.form.std, 4
    a, b = (ViewBatches(images, *look)[1] for images in (direct, read(tmp_path / "p")["train"]))
    assert torch.equal(a.x_q, b.x_q)


def test_a_file_for_each_band(tmp_path: Path) -> None:
    """They become one TIFF, which knows the value that stands for none."""
    for i, ending in itertools.product(range(4), ("_1.tif", "_2.tif")):
        (tmp_path / "x").mkdir(exist_ok=True)
        values = np.random.default_rng(i).integers(0, 900, (7, 5)).astype(np.int16)
        values[2, 2] = -9999
        tags = [(42113, 2, 6, "-9999", True)]
        tifffile.imwrite(tmp_path / "x" / f"{i}{ending}", values + np.int16(i), extratags=tags if i == 0 else [])
    expected = read(tmp_path / "x", bands=("_1", "_2"), no_data="-9999")["train"]
    for form in ("arrays", "shards"):
        run(PackConfig(str(tmp_path / "x"), tmp_path / form, format=form, bands=("_1", "_2"), no_data="-9999"))
        found = read(tmp_path / form)["train"]
        assert found.form is not None
        assert (found.form.channels, found.form.no_data) == (2, "-9999")
        assert all(torch.equal(found[row], expected[row]) for row in range(4))
        given = read(tmp_path / form, bands=("_1", "_2"), no_data="-9999")["train"]  # as a run resumed on the pack asks
        assert torch.equal(given[0], found[0])


def test_channels_are_resized_as_they_are(tmp_path: Path) -> None:
    """Without rounding: the mean of each channel stays."""
    expected = read(bands(tmp_path / "x", side=16))["train"]
    run(PackConfig(str(tmp_path / "x"), tmp_path / "p", image_size=8))
    found = read(tmp_path / "p")["train"][0]
    assert found.shape == (4, 8, 8)
    torch.testing.assert_close(found.mean((1, 2)), expected[0].mean((1, 2)), rtol=0.05, atol=0)
    assert not torch.equal(found, found.round())


def test_packed_channels_that_are_not_wanted(tmp_path: Path) -> None:
    """What reads RGB says what the pack is; --channels rgb packs bytes."""
    run(PackConfig(bands(tmp_path / "x"), tmp_path / "p"))
    for asked in (None, Asked("rgb"), Asked("3"), Asked("auto", no_data="7")):
        with pytest.raises(BadInputError, match=r"p.*(pack the files again|4 channels of uint16, as it was packed)"):
            load(str(tmp_path / "p"), form=asked)
    facts = json.loads((tmp_path / "p" / "pack.json").read_text())
    for bad in ({"channels": 5}, {"mean": "abc"}, {"std": [0.0] * 4}, {"depth": "x"}, {"more": 1}):
        (tmp_path / "p" / "pack.json").write_text(json.dumps({**facts, "form": {**facts["form"], **bad}}))
        with pytest.raises(BadInputError, match=r"pack\.json is not that of a pack"):
            read(tmp_path / "p")
    odd = tmp_path / "x" / "b" / "5.tif"
    tifffile.imwrite(odd, np.zeros((3, 12, 12), np.uint16), photometric="minisblack", planarconfig="separate")
    assert "5.tif is 3 channels of uint16, expected 4" in refusal(tmp_path / "x", tmp_path / "out" / "p")


# --- memory ---------------------------------------------------------------------------------------------------------


def test_arrays_are_mapped(tmp_path: Path) -> None:
    """Opening a pack of 3 GB takes no memory, and a batch reads its own rows only."""
    run(PackConfig("digits", tmp_path / "p"))
    path, count, shape = tmp_path / "p" / "train" / "pixels.npy", 480, (3, 1400, 1400)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.truncate(start + count * 3 * 1400 * 1400)  # holes
        file.seek(start + 479 * 3 * 1400 * 1400)
        file.write(b"\x07")
    images = load(str(tmp_path / "p"))["train"]
    assert isinstance(images, ArrayImages)
    assert images.pixels[479, 0, 0, 0] == 7
    batch = images.pixels[torch.tensor([479, 3])]
    assert batch[0, 0, 0, 0] == 7
    assert int(batch.sum()) == 7


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["file", "folder", "pack", "link to nothing"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    """Not even a pack of the same images."""
    out = tmp_path / "out" / "p"
    out.parent.mkdir()
    if there == "file":
        out.write_text("mine")
    elif there == "folder":
        out.mkdir()
        (out / "mine").touch()
    elif there == "pack":
        run(PackConfig("digits", out))
    else:
        out.symlink_to("nowhere")
    assert "is there already" in refusal("digits", out)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """Made beforehand, it is as good as none."""
    (tmp_path / "p").mkdir()
    assert len(packed("digits", tmp_path / "p")["test"]) == 120


def test_a_bad_image_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    """The message names it."""
    (photos / "train" / "dog" / "9.png").write_bytes(b"<html>")
    for flags in ({}, {"image_size": 8}):
        message = refusal(photos, tmp_path / "out" / "p", **flags)
        assert "9.png" in message
        assert "cannot be read as an image" in message


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says so."""

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack, "_sync", full)
    for form in ("arrays", "shards"):
        assert "the disk is full" in refusal("digits", tmp_path / "out" / "p", format=form)


@pytest.mark.parametrize("out", ["file/p", "file/a/p"])
def test_where_nothing_can_be_written(tmp_path: Path, out: str) -> None:
    """Below a file, for instance."""
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal("digits", tmp_path / out)


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """What it leads to would be cleared."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / ".p.moco-partial").symlink_to("mine")
    assert "is a link" in refusal("digits", tmp_path / "p")


def test_someone_else_made_it_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there in the end stays."""
    write = pack.write

    def slow(*arguments: Any) -> Any:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "mine").touch()
        return write(*arguments)

    monkeypatch.setattr("moco.commands.pack.write", slow)
    with pytest.raises(BadInputError, match="is there already"):
        run(PackConfig("digits", tmp_path / "p"))
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["mine"]


def write_for_ever(out: Path) -> None:
    """Begin to write a pack."""
    with write_aside(out) as folder:
        (folder / "train").mkdir()
        (folder / "train" / "rest.tar").touch()
        print("there", flush=True)
        time.sleep(60)


def test_a_killed_one_is_begun_anew(tmp_path: Path) -> None:
    """Its rest does not get into the next, and two at once are refused."""
    own = tmp_path / "own"
    own.mkdir()
    other = start_program(functools.partial(write_for_ever, own / "p"), tmp_path, ranks=1)
    until(lambda: other.text() == "there\n", "the beginning")
    with pytest.raises(BadInputError, match=f"process {other.processes[0].pid} on .* is writing it"):
        run(PackConfig("digits", own / "p"))
    assert (own / ".p.moco-partial" / "train" / "rest.tar").exists()
    other.kill()
    assert (own / ".p.moco-partial").exists()
    assert len(packed("digits", own / "p")["train"]) == 480
    assert [path.name for path in own.iterdir()] == ["p"]
    assert not list((own / "p").rglob("rest.tar"))


# --- a pack that was damaged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrays", "shards"])
def test_a_damaged_pack_is_named(photos: Path, tmp_path: Path, form: Literal["arrays", "shards"]) -> None:
    """Every file of it that is missing or cut off is noticed when it is opened."""
    data = str(photos) if form == "shards" else "digits"
    run(PackConfig(data, tmp_path / "p", format=form))
    for path in sorted(path for path in (tmp_path / "p").rglob("*") if path.is_file()):
        content = path.read_bytes()
        for bad in (None, b"", content[:-1] if path.suffix != ".json" else content[:-4], "a pipe"):
            path.unlink(missing_ok=True)
            if bad == "a pipe" and path.name != "pack.json":
                os.mkfifo(path)  # it would be waited for
            elif isinstance(bad, bytes):
                path.write_bytes(bad)
            elif path.name == "pack.json":
                continue  # then it is no pack, but folders of shards or nothing
            with pytest.raises(BadInputError, match=r"p.*(pack again|is not that of a pack)"):
                load(str(tmp_path / "p"))
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    check_same(load(str(tmp_path / "p")), load(data))


@pytest.mark.parametrize(
    "facts",
    [[], {}, {"moco_pack": 2}, {"format": "zip"}, {"splits": ["../../etc"]}, {"splits": [["train"]]}, {"splits": 5}],
)
def test_a_pack_of_something_else(tmp_path: Path, facts: Any) -> None:
    """Another version or format; and no path is taken from it."""
    run(PackConfig("digits", tmp_path / "p"))
    sound = json.loads((tmp_path / "p" / "pack.json").read_text())
    (tmp_path / "p" / "pack.json").write_text(json.dumps({**sound, **facts} if facts else facts))
    with pytest.raises(BadInputError, match=r"pack\.json is not that of a pack"):
        load(str(tmp_path / "p"))


def test_pixels_of_another_kind(tmp_path: Path) -> None:
    """Floats, or another order of the axes."""
    run(PackConfig("digits", tmp_path / "p"))
    for array in (np.zeros((480, 3, 8, 8), np.float32), np.zeros((480, 8, 8, 3), np.uint8), np.zeros(3, np.uint8)):
        np.save(tmp_path / "p" / "train" / "pixels.npy", array)
        with pytest.raises(BadInputError, match="expected bytes"):
            load(str(tmp_path / "p"))


def test_a_pack_may_be_copied(photos: Path, tmp_path: Path) -> None:
    """Times of change do not count, sizes and checksums do."""
    run(PackConfig(str(photos), tmp_path / "p"))
    for path in (tmp_path / "p").rglob("*"):
        os.utime(path, (0, 0))
    (tmp_path / "p").rename(tmp_path / "q")
    check_same(load(str(tmp_path / "q")), load(str(photos)))


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints for people, and with --json one object, which is all of standard output."""
    started = time.monotonic()
    assert main(["pack", "--data", "digits", "--out", str(tmp_path / "p"), "--json"]) == 0
    line, message = capsys.readouterr()
    result = json.loads(line)
    assert result["images"] == {"train": 480, "test": 120}
    assert result["format"] == "arrays"
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "p").rglob("*") if path.is_file())
    assert 0 < result["seconds"] <= time.monotonic() - started + 0.001
    assert "480 train, 120 test images as arrays" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "gone"], "--data gone"),
        (["--data", "digits", "--format", "zip"], "--format is zip"),
        (["--data", "digits", "--shard-bytes", "0"], "--shard-bytes is 0"),
        (["--data", "digits", "--image-size", "-3"], "--image-size is -3"),
    ],
    ids=str,
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    """Exit code 2 and one line."""
    assert main(["pack", *flags, "--out", str(tmp_path / "p")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_line_of_pixels_is_cut_before_it_is_enlarged() -> None:
    """1 x 60,000 pixels at 224 would take 36 GB; the square is the middle of the line, as of one that fits."""
    line = torch.arange(60_000).remainder(251).to(torch.uint8).view(1, 60_000, 1).expand(3, -1, -1)
    middle = line[:, 30_000 - 32 : 30_000 + 32]
    found = pack.crop_to_square(line, 224)
    assert found.shape == (3, 224, 224)
    assert torch.equal(found, pack.crop_to_square(middle, 224))


def test_arrays_of_dark_images_are_warned_of(tmp_path: Path) -> None:
    """Arrays hold bytes, so what 12 bits of colour in 16 show is lost in them; shards hold the files as they are."""
    (tmp_path / "d").mkdir()
    for number in range(4):
        PillowImage.new("RGB", (8, 8), (number, 15, 3)).save(tmp_path / "d" / f"{number}.png")
    with pytest.warns(UserWarning, match="nearly black"):
        run(PackConfig(str(tmp_path / "d"), tmp_path / "arrays"))
    run(PackConfig(str(tmp_path / "d"), tmp_path / "shards", format="shards"))
