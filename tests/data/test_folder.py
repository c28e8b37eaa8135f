"""The images of a folder in the order of their paths' bytes; the index of a large one is opened until it is changed."""

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data import columns
from moco.data import folder as module
from moco.data import search as searching
from moco.data.catalog import load
from moco.data.folder import open_folder
from moco.data.images import EXTENSIONS, FileImages
from moco.data.kinds import Exclude
from moco.data.layout import find_start
from moco.data.notes import Notes
from moco.data.tree import DiskTree
from moco.data.video import find_videos
from moco.errors import BadInputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indices are kept in an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as a large one: three images in two folders."""
    monkeypatch.setattr(module, "LARGE", 2)
    for path in ("cat/1.png", "cat/2.png", "dog/a/3.png"):
        (tmp_path / "d" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / path).touch()
    return tmp_path / "d"


def names(images: FileImages) -> list[str]:
    """The names of all images."""
    return [images.name(i) for i in range(len(images))]


def searches(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The folders that are searched from now on."""
    seen: list[bytes] = []
    scandir = os.scandir

    def counted(path: bytes) -> object:
        seen.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    return seen


# --- the search -----------------------------------------------------------------------------------------------------

parts = st.text(st.sampled_from("a.-0Z "), min_size=1, max_size=3).filter(lambda part: not part.startswith("."))
files = st.builds("{}.png".format, parts)
paths = st.lists(st.lists(parts, max_size=2).flatmap(lambda above: files.map(lambda name: [*above, name])), min_size=1)


@given(paths)
@settings(max_examples=30, deadline=None)
def test_any_tree(tree: list[list[str]]) -> None:
    """The order, labels and classes are those of sorting all paths as os.walk finds them."""
    with tempfile.TemporaryDirectory() as top:
        for path in tree:
            try:
                Path(top, *path[:-1]).mkdir(parents=True, exist_ok=True)
                Path(top, *path).touch()
            except OSError:  # a folder of this name is there already, or a file
                continue
        walked = [
            os.path.relpath(os.path.join(above, name), top) for above, _, inside in os.walk(top) for name in inside
        ]
        expected = sorted((path for path in walked if path.endswith(".png")), key=os.fsencode)
        found = open_folder(Path(top))
    assert names(found) == expected
    if any("/" not in path for path in expected):
        assert found.labels is None
        assert found.classes == ()
    else:
        assert found.labels is not None
        assert found.labels.dtype == np.int64
        assert list(found.classes) == sorted({path.split("/")[0] for path in expected}, key=os.fsencode)
        assert [found.classes[label] for label in found.labels] == [path.split("/")[0] for path in expected]


def test_no_image(tmp_path: Path) -> None:
    """The message names the folder and what was expected."""
    with pytest.raises(BadInputError, match="no image in it") as caught:
        open_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert all(ending in str(caught.value) for ending in EXTENSIONS)


# --- the index ------------------------------------------------------------------------------------------------------


def test_a_small_folder_is_searched_every_time(tmp_path: Path, cache: Path) -> None:
    """And leaves nothing on disk; other libraries, which earlier tests began, may."""
    (tmp_path / "1.png").touch()
    open_folder(tmp_path)
    assert not (cache / "moco").exists()


@pytest.mark.parametrize("flat", [False, True])
def test_a_large_folder_is_searched_once(large: Path, flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened equals what was found, and no folder is listed for it."""
    if flat:
        (large / "0.png").touch()
    found, seen = open_folder(large), searches(monkeypatch)
    again = open_folder(large)
    assert seen == []
    assert names(again) == names(found)
    assert len(again) == 3 + flat
    assert again.classes == found.classes == (() if flat else ("cat", "dog"))
    assert (again.labels is None) == flat
    assert again.labels is None or np.array_equal(again.labels, [0, 0, 1])


def test_nothing_is_held_for_each_image(large: Path) -> None:
    """Paths and labels are mapped from disk."""
    open_folder(large)
    again = open_folder(large)
    for array in (again.paths.text, again.paths.ends, again.labels):
        assert array is not None
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new image": lambda root: (root / "cat" / "0.png").touch(),
    "a new image far below": lambda root: (root / "dog" / "a" / "4.png").touch(),
    "one less": lambda root: (root / "cat" / "1.png").unlink(),
    "another name": lambda root: (root / "cat" / "1.png").rename(root / "cat" / "9.png"),
    "moved": lambda root: (root / "cat" / "1.png").rename(root / "dog" / "1.png"),
    "a new class": lambda root: shutil.copytree(root / "cat", root / "bee"),
    "a class less": lambda root: shutil.rmtree(root / "cat"),
    "a class of another name": lambda root: (root / "cat").rename(root / "emu"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("restored", [False, True])
def test_a_change_is_seen(large: Path, change: str, restored: bool) -> None:
    """Also where the times of change are put back afterwards, as programs do that copy folders."""
    before = names(open_folder(large))
    status = {path: path.stat() for path in (large, *large.rglob("*")) if path.is_dir()}
    CHANGES[change](large)
    if restored:
        for path, then in status.items():
            if path.exists():
                os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    after = names(open_folder(large))
    assert after != before
    assert after == sorted(str(path.relative_to(large)) for path in large.rglob("*.png"))


def test_a_change_at_once_is_seen(large: Path) -> None:
    """A folder that was changed just now may be changed again within the same time stamp."""
    for i in range(10):
        (large / f"{i}.png").touch()
        assert f"{i}.png" in names(open_folder(large))


def test_another_folder_of_the_same_name(large: Path) -> None:
    """The index belongs to the folder that lies there now."""
    open_folder(large)
    large.rename(large.with_name("old"))
    (large / "emu").mkdir(parents=True)
    (large / "emu" / "1.png").touch()
    assert names(open_folder(large)) == ["emu/1.png"]


@pytest.mark.parametrize("name", [f"{column}.npy" for column in module.COLUMNS] + ["index.json"])
def test_a_damaged_index_is_made_anew(large: Path, cache: Path, name: str) -> None:
    """Nobody has to know that it is there."""
    before = names(open_folder(large))
    (kept,) = cache.rglob(name)
    kept.write_bytes(kept.read_bytes()[:-1])
    assert names(open_folder(large)) == before


def test_where_nothing_can_be_kept(large: Path, cache: Path) -> None:
    """A warning, and the images all the same."""
    cache.touch()
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert len(open_folder(large)) == 3


def test_names_that_are_not_text(large: Path) -> None:
    """They are kept as bytes."""
    (large / os.fsdecode(b"\xff")).mkdir()
    (large / os.fsdecode(b"\xff/caf\xe9.png")).touch()
    open_folder(large)
    again = open_folder(large)
    assert os.fsencode(again.name(3)) == b"\xff/caf\xe9.png"
    assert os.fsencode(again.classes[2]) == b"\xff"


def test_a_million_paths_need_no_million_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening an index of 300,000 paths takes as long as one of three: far below a second."""
    (tmp_path / "d").mkdir()
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(searching, "walk", invented)
    open_folder(tmp_path / "d")
    started = time.perf_counter()
    again = open_folder(tmp_path / "d")
    assert time.perf_counter() - started < 0.5
    assert len(again) == 300_000
    assert again.name(299_999) == "000299/000299999.jpg"


def invented(search: searching.Search) -> object:
    """The paths of a folder that is larger than what lies on disk."""
    search.folders.append(b"")
    search.times.append(searching.read_times(search.top))
    return (b"%06d/%09d.jpg" % (i // 1000, i) for i in range(300_000))


@pytest.mark.parametrize("column", ["names", "folders"])
def test_an_index_with_a_path_that_no_file_has(large: Path, cache: Path, column: str) -> None:
    """Found by fuzzing: a NUL in it. The folder is searched again."""
    expected = names(open_folder(large))
    (path,) = cache.rglob(f"{column}.npy")
    stored = np.load(path)
    stored[-1] = 0
    np.save(path, stored)
    assert names(open_folder(large)) == expected


def test_the_index_is_flat_arrays(large: Path, cache: Path) -> None:
    """Any numpy reads them."""
    open_folder(large)
    (place,) = {path.parent for path in cache.rglob("*.npy")}
    assert place == columns.cache_place(large)
    assert np.load(place / "names.npy").tobytes() == b"cat/1.pngcat/2.pngdog/a/3.png"
    assert np.load(place / "name_ends.npy").tolist() == [0, 9, 18, 29]
    assert np.load(place / "labels.npy").tolist() == [0, 0, 1]


# --- what is in the way ---------------------------------------------------------------------------------------------


def found_with_notes(root: Path) -> tuple[list[str], str]:
    """The images, and what is left out."""
    notes = Notes()
    return names(open_folder(root, notes=notes)), notes.left_out


def test_links_to_a_folder_above(tmp_path: Path) -> None:
    """Each image comes once, whichever way the links lead."""
    (tmp_path / "d" / "a").mkdir(parents=True)
    (tmp_path / "d" / "a" / "1.png").touch()
    (tmp_path / "d" / "a" / "again").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "self").symlink_to(tmp_path / "d" / "self")
    found, left_out = found_with_notes(tmp_path / "d")
    assert found == ["a/1.png"]
    assert "1 link to a folder above (a/again)" in left_out


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """Pipes, devices, links to them, links that lead nowhere: counted, and never opened."""
    (tmp_path / "1.png").touch()
    os.mkfifo(tmp_path / "2.png")
    os.mkfifo(tmp_path / "no ending")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    (tmp_path / "4.png").symlink_to("gone")
    found, left_out = found_with_notes(tmp_path)
    assert found == ["1.png"]
    assert "3 pipes, sockets or devices" in left_out
    assert "1 broken link (4.png)" in left_out


@pytest.mark.parametrize("name", ["5.png", "5", "5.parquet", "5.mp4"])
def test_links_in_a_circle(tmp_path: Path, name: str) -> None:
    """They lead nowhere: whatever `--data` may hold besides images, they are counted as broken links."""
    for folder in (tmp_path, tmp_path / "a"):
        folder.mkdir(exist_ok=True)
        (folder / name).symlink_to("6")
        (folder / "6").symlink_to(name)
    (tmp_path / "a" / "1.png").touch()
    assert len(load(str(tmp_path))["train"]) == 1
    assert "2 broken links" in found_with_notes(tmp_path / "a")[1]


def test_links_in_a_circle_beside_videos(tmp_path: Path) -> None:
    """The videos of the folder are found all the same."""
    (tmp_path / "5").symlink_to("5")
    for number in range(3):
        (tmp_path / f"{number}.mp4").touch()
    assert find_videos(tmp_path, Exclude()) == ["0.mp4", "1.mp4", "2.mp4"]


def test_folders_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those below are counted; the top is refused in one line. Root may read all, so the system is stood in for."""
    scandir = os.scandir

    def denied(path: bytes | int) -> object:
        if not isinstance(path, int) and os.fsencode(path).rstrip(b"/").endswith(b"secret"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    (tmp_path / "d" / "secret").mkdir(parents=True)
    (tmp_path / "d" / "1.png").touch()
    monkeypatch.setattr(os, "scandir", denied)
    assert found_with_notes(tmp_path / "d") == (["1.png"], "1 folder without permission to read (secret/)")
    with pytest.raises(BadInputError, match="change its permissions"):
        open_folder(tmp_path / "d" / "secret")


@pytest.mark.parametrize(("name", "levels"), [("d", 1100), ("folder", 900)])
def test_many_levels(tmp_path: Path, name: str, levels: int) -> None:
    """As far as the system can name a file; what lies deeper is counted."""
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(levels):
            os.mkdir(name)
            os.chdir(name)
        Path("2.png").touch()
    finally:
        os.chdir(here)
    (tmp_path / "1.png").touch()
    found, left_out = found_with_notes(tmp_path)
    subprocess.run(["rm", "-rf", name], cwd=tmp_path, check=True)  # Python's own removal is recursive
    assert len(found) + ("nested too deep" in left_out) == 2
    assert len(found) == (2 if name == "d" else 1)


def test_a_kept_index_belongs_to_its_patterns(large: Path) -> None:
    """What is left out, and what is said about it, is the same from the index."""
    notes = [Notes() for _ in range(4)]
    for patterns, own in zip([["cat"], ["cat"], [], ["1.png"]], notes, strict=True):
        found = names(open_folder(large, Exclude(patterns), own))
        assert found == [
            path
            for path in ("cat/1.png", "cat/2.png", "dog/a/3.png")
            if not Exclude(patterns).fits_any_part(path.encode())
        ]
    assert [own.left_out for own in notes] == ["1 by --exclude", "1 by --exclude", "", "1 by --exclude"]


def test_a_full_table_of_files_is_no_fault_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not counted as unreadable."""

    def full(path: bytes) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "1.png").touch()
    tree = find_start(DiskTree(str(tmp_path)))
    assert tree == b""
    monkeypatch.setattr(os, "scandir", full)
    with pytest.raises(OSError, match="Too many open files"):
        list(searching.walk(searching.Search(os.fsencode(tmp_path))))
