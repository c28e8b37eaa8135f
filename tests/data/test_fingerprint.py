"""A fingerprint notices every added, removed, renamed or changed image, and says which was the first."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.commands.pack import run as pack
from moco.data import fingerprint as module
from moco.data.catalog import load
from moco.data.config import PackConfig
from moco.data.derived import Subset
from moco.data.fingerprint import (
    describe_changes,
    fingerprint,
    is_copy,
    keep_fingerprint,
    measure_known_share,
    require_same_images,
)  # fmt: skip
from moco.data.images import ArrayImages, FileImages, Images, PathTable, hold
from moco.errors import BadInputError

COUNT = 12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of twelve small images, each with its own time."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = folder / f"{i:02}.png"
        PillowImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        os.utime(path, ns=(0, 10**18 + i))
    return folder


def files(folder: Path) -> FileImages:
    """The images in a folder, by name."""
    return FileImages(os.fsencode(folder), PathTable(sorted(os.fsencode(path.name) for path in folder.iterdir())))


def difference(before: Images, after: Images) -> str:
    """In words."""
    return describe_changes(fingerprint(before), fingerprint(after), after)


def describe_since(folder: Path, before: module.Fingerprint) -> str:
    """What is different in a folder since."""
    images = files(folder)
    return describe_changes(before, fingerprint(images), images)


@pytest.mark.parametrize("most", [5, COUNT, 100])
def test_the_share_of_images_that_are_known(data: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """By name and content, and by time where copies do not count; of many only some are looked at."""
    known = fingerprint(files(data))
    monkeypatch.setattr(module, "LOOKED_AT", most)
    assert measure_known_share(known, files(data), copies=False) == 100
    assert measure_known_share(known, Subset(files(data), np.array([3, 1])), copies=False) == 100
    shutil.copytree(data, data.parent / "copy", copy_function=shutil.copyfile)
    assert measure_known_share(known, files(data.parent / "copy"), copies=True) == 100
    assert measure_known_share(known, files(data.parent / "copy"), copies=False) == 0
    for path in sorted((data.parent / "copy").iterdir())[: COUNT // 2]:
        path.rename(path.with_name(f"0{path.name}"))
    found = measure_known_share(known, files(data.parent / "copy"), copies=True)
    assert found is not None
    assert (found == 50) if most >= COUNT else (0 < found < 100)
    (data / "11.png").write_bytes((data / "11.png").read_bytes() + b"1")
    assert measure_known_share(known, Subset(files(data), np.array([11])), copies=True) == 0


def test_the_share_is_not_known_of_another_kind_of_set(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where one row of marks stands for several images."""
    known = fingerprint(files(data))
    assert measure_known_share(known, hold(files(data)), copies=True) is None
    monkeypatch.setattr(module, "MOST_ROWS", 5)
    assert measure_known_share(fingerprint(files(data)), files(data), copies=True) is None


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_same_files_are_the_same(data: Path) -> None:
    """Also in another object, through a part of the set, and from another folder with the same times."""
    before = fingerprint(files(data))
    assert describe_since(data, before) == ""
    shutil.copytree(data, data.parent / "copy")
    assert describe_since(data.parent / "copy", before) == ""
    part = Subset(files(data), np.arange(5))
    assert difference(part, Subset(files(data), np.arange(5))) == ""
    assert difference(part, Subset(files(data), np.arange(6))) != ""


@pytest.mark.parametrize("held", [False, True], ids=["files", "held"])
def test_a_change_in_a_part_is_noticed(data: Path, held: bool) -> None:
    """By content, as in the whole set; what lies outside of the part is not looked at."""
    rows = np.array([7, 2, 3])

    def part() -> Subset:
        return Subset(hold(files(data)) if held else files(data), rows)

    before = fingerprint(part())
    assert before.kind == ("ArrayImages" if held else "FileImages")
    for name in ("05.png", "03.png"):
        status = (data / name).stat()
        PillowImage.new("RGB", (8, 8)).save(data / name)
        os.utime(data / name, ns=(0, status.st_mtime_ns))
        expected = "3 images then, 3 now: 1 changed, the first 03.png" if name == "03.png" else ""
        assert describe_changes(before, fingerprint(part()), part()) == expected


def test_a_held_part_is_a_part_of_what_is_held(data: Path) -> None:
    """Whichever comes first, the run that began with one can go on with the other."""
    rows = np.array([7, 2, 3])
    one, other = hold(Subset(files(data), rows)), Subset(hold(files(data)), rows)
    assert difference(one, other) == difference(other, one) == ""


@pytest.mark.parametrize("place", [0, 5, COUNT - 1])
def test_every_change_is_noticed(data: Path, place: int) -> None:
    """At the beginning, in the middle and at the end."""
    before, path = fingerprint(files(data)), data / f"{place:02}.png"
    content, status = path.read_bytes(), path.stat()

    path.write_bytes(content + b"x")
    os.utime(path, ns=(0, status.st_mtime_ns))
    assert describe_since(data, before) == f"12 images then, 12 now: 1 changed, the first {path.name}"

    path.write_bytes(content)
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    assert describe_since(data, before) == f"12 images then, 12 now: 1 changed, the first {path.name}"
    assert not is_copy(before, fingerprint(files(data)))

    path.unlink()
    where = f"missing before {place + 1:02}.png" if place < COUNT - 1 else f"behind {place - 1:02}.png"
    assert describe_since(data, before) == f"12 images then, 11 now: 1 removed, the first {where}"

    path.write_bytes(content)
    os.utime(path, ns=(0, status.st_mtime_ns))
    assert describe_since(data, before) == ""
    new = data / f"{place:02}.png-new"
    new.write_bytes(content)
    assert describe_since(data, before) == f"12 images then, 13 now: 1 added, the first {new.name}"

    path.unlink()
    assert describe_since(data, before) == f"12 images then, 12 now: 1 added, 1 removed, the first {new.name}"


def test_a_file_that_is_gone_though_its_name_is_there(data: Path) -> None:
    """As in a text list or a kept index."""
    before, images = fingerprint(files(data)), files(data)
    (data / "03.png").unlink()
    assert (
        describe_changes(before, fingerprint(images), images) == "12 images then, 12 now: 1 changed, the first 03.png"
    )


def test_another_order_is_noticed(data: Path) -> None:
    """Images are numbers, so their order matters."""
    images = files(data)
    turned = FileImages(images.root, PathTable(images.paths[i] for i in reversed(range(COUNT))))
    assert difference(images, turned) == "12 images then, 12 now: in another order, the first 11.png"


def test_a_copy_has_other_times_and_nothing_else(data: Path) -> None:
    """Of all images; one that was also changed is no copy."""
    before = fingerprint(files(data))
    for path in data.iterdir():
        path.touch()
    assert is_copy(before, fingerprint(files(data)))
    (data / "05.png").write_bytes(b"other")
    assert not is_copy(before, fingerprint(files(data)))


def test_hostile_names_are_told_on_one_line(data: Path) -> None:
    """A name may hold anything."""
    before = fingerprint(files(data))
    (data / "00.png\n\x1b[2J").write_bytes(b"")
    assert "\n" not in describe_since(data, before)
    assert "\x1b" not in describe_since(data, before)


# --- arrays, shards, large sets -------------------------------------------------------------------------------------


def test_one_pixel_is_noticed() -> None:
    """Of images in memory; contiguous or not."""
    pixels = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = ArrayImages(pixels.expand(-1, 3, -1, -1))
    assert difference(before, ArrayImages(pixels.repeat(1, 3, 1, 1))) == ""
    for place in (0, 17, 29):
        other = pixels.clone()
        other[place, 0, 7, 7] ^= 1
        after = ArrayImages(other.expand(-1, 3, -1, -1))
        assert difference(before, after) == f"30 images then, 30 now: 1 changed, the first #{place}"


def test_held_images_are_known_by_name_and_pixels(data: Path) -> None:
    """Other times say nothing where the pixels are the same."""
    before = fingerprint(hold(files(data)))
    for path in data.iterdir():
        path.touch()
    after = hold(files(data))
    assert describe_changes(before, fingerprint(after), after) == ""
    PillowImage.new("RGB", (8, 8)).save(data / "05.png")
    after = hold(files(data))
    assert describe_changes(before, fingerprint(after), after) == "12 images then, 12 now: 1 changed, the first 05.png"


@pytest.mark.parametrize("form", ["arrays", "shards"])
def test_packs(data: Path, tmp_path: Path, form: str) -> None:
    """Shards by the checksums in their index, which are compared with the bytes when these are read."""
    pack(PackConfig(str(data), tmp_path / "one", format=form))  # type: ignore[arg-type]
    PillowImage.new("RGB", (8, 8)).save(data / "07.png")
    pack(PackConfig(str(data), tmp_path / "two", format=form))  # type: ignore[arg-type]
    one, two = (load(str(tmp_path / name))["train"] for name in ("one", "two"))
    assert difference(one, load(str(tmp_path / "one"))["train"]) == ""
    assert difference(one, two) == "12 images then, 12 now: 1 changed, the first 07.png"
    assert "ArrayImages" in difference(files(data), hold(files(data)))


def test_large_sets_have_blocks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All names count, and of contents those of each block's first image; the message says so."""
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    before = fingerprint(files(data))
    assert len(before.names) == len(before.contents) == 4
    (data / "07.png").rename(data / "07-b.png")
    assert describe_since(data, before) == "12 images then, 12 now: 1 added, 1 removed (blocks of 3), the first 06.png"
    (data / "07-b.png").rename(data / "07.png")
    assert describe_since(data, before) == ""
    (data / "06.png").write_bytes(b"")
    assert describe_since(data, before) == "12 images then, 12 now: 1 changed (blocks of 3), the first 06.png"


# --- what a run keeps -----------------------------------------------------------------------------------------------


def test_a_run_keeps_what_it_began_with(data: Path, tmp_path: Path) -> None:
    """Until something else is accepted."""
    run = tmp_path / "run"
    require_same_images(run, files(data), accept=False)  # nothing is known yet
    assert keep_fingerprint(run, files(data), accept=False) == ""
    require_same_images(run, files(data), accept=False)
    (data / "03.png").unlink()
    assert keep_fingerprint(run, files(data), accept=False) == ""
    with pytest.raises(BadInputError, match=r"12 images then, 11 now.*--accept-changed-data"):
        require_same_images(run, files(data), accept=False)
    require_same_images(run, files(data), accept=True)
    assert keep_fingerprint(run, files(data), accept=True).startswith("12 images then, 11 now")
    require_same_images(run, files(data), accept=False)
    assert keep_fingerprint(run, files(data), accept=True) == ""


def test_a_damaged_one_is_an_error_until_accepted(data: Path, tmp_path: Path) -> None:
    """Rather than going on with whatever there is."""
    keep_fingerprint(tmp_path, files(data), accept=False)
    path = tmp_path / module.FILE
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadInputError, match="--accept-changed-data"):
        require_same_images(tmp_path, files(data), accept=False)
    assert "cannot be read" in keep_fingerprint(tmp_path, files(data), accept=True)
    require_same_images(tmp_path, files(data), accept=False)
