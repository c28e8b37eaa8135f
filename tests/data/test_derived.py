"""A set that is made of another one answers everything for its own images, and loses nothing that the other can do."""

import ast
import itertools
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import moco
from moco.data import derived as module
from moco.data import kept
from moco.data.catalog import load
from moco.data.decoding import decode_bytes
from moco.data.derived import Joined, Readable, Subset, make_readable, take_evenly
from moco.data.images import ArrayImages, FileImages, Images, PathTable
from moco.data.kept import KeptImages
from moco.errors import BadInputError
from tests.data.test_replacement import in_memory

COUNT = 6
ROWS = np.array([4, 1, 2, 0])
WRAPPERS: dict[str, Callable[[Images], Images]] = {
    "Subset": lambda images: Subset(images, ROWS[len(images) > ROWS]),
    "Readable": Readable,
    "KeptImages": KeptImages,
    "Joined": lambda images: Joined((images,), ("",)),
}
COMPOSITIONS = [names for depth in range(3) for names in itertools.product(WRAPPERS, repeat=depth)]
"""No wrapper, each, and each around each."""
BASES = ("files", "shards", "array", "damaged files", "damaged array")


@pytest.fixture(scope="module")
def modules() -> list[tuple[Path, ast.Module]]:
    """The syntax of every module of the package."""
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in Path(moco.__file__).parent.rglob("*.py")]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Images]:
    """Six images of one size and two classes, JPEG and PNG, as every kind of set; number 1 of the damaged is bad."""
    root, rng = tmp_path_factory.mktemp("bases"), np.random.default_rng(0)
    names = [f"{i}.{'png' if i % 2 else 'jpg'}" for i in range(COUNT)]
    for name in names:
        PillowImage.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(root / name)
    with tarfile.open(root / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            tar.add(root / name, name)
    table, labels, classes = PathTable([name.encode() for name in names]), np.arange(COUNT) % 2, ("even", "odd")
    files = FileImages(os.fsencode(root), table, labels, classes)
    pixels = torch.stack([files[i] for i in range(COUNT)])
    broken = root / "broken"
    broken.mkdir()
    for i, name in enumerate(names):
        content = (root / name).read_bytes()
        (broken / name).write_bytes(content[: len(content) // 2] if i == 1 else content)
    return {
        "files": files,
        "shards": load(str(root / "0.tar"))["train"],
        "array": ArrayImages(pixels, labels, classes, names=files),
        "damaged files": FileImages(os.fsencode(broken), table, labels, classes),
        "damaged array": ArrayImages(pixels, labels, classes, unreadable={1: "#1: cannot be read"}),
    }


def readable_rows(images: Images) -> list[int]:
    """The images that can be decoded."""
    rows = []
    for i in range(len(images)):
        try:
            images[i]
        except BadInputError:
            continue
        rows.append(i)
    return rows


# --- what all sets have in common -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*in the monitor")
@pytest.mark.parametrize("wrappers", COMPOSITIONS, ids="-".join)
@pytest.mark.parametrize("base", BASES)
def test_a_set_agrees_with_its_own_images(bases: dict[str, Images], base: str, wrappers: tuple[str, ...]) -> None:
    """Files, tensors, names and what is known to be unreadable are those of `images[i]`."""
    images = bases[base]
    for wrapper in wrappers:
        images = WRAPPERS[wrapper](images)
    assert isinstance(images, Images)
    sound = readable_rows(images)
    assert len(sound) >= len(images) - 1
    assert images.labels is None or len(images.labels) == len(images)
    for i in sound:
        content = images.encoded(i)
        assert content is None or torch.equal(decode_bytes(content, "x"), images[i])
    assert not set(images.unreadable) & set(sound)
    for i, reason in images.unreadable.items():
        with pytest.raises(BadInputError, match=reason):
            images[i]
    stacked = images.stack(np.array(sound[::-1]))
    assert (stacked is not None) == images.in_memory
    assert stacked is None or torch.equal(stacked, torch.stack([images[i] for i in sound[::-1]]))
    again = images.with_white_level(1000)
    assert again.white_level == (None if "array" in base else 1000)
    assert len(again) == len(images)
    assert torch.equal(again[sound[0]], images[sound[0]])  # of 8 bits
    if images.name_table is not None:
        assert [images.name_table.name(i) for i in range(len(images))] == [images.name(i) for i in range(len(images))]


@pytest.mark.filterwarnings("ignore:.*in the monitor")
@pytest.mark.parametrize("wrappers", COMPOSITIONS[1:], ids="-".join)
@pytest.mark.parametrize("base", BASES)
def test_a_wrapper_loses_nothing(bases: dict[str, Images], base: str, wrappers: tuple[str, ...]) -> None:
    """It is in memory, knows of damage and has files where the set within does."""
    inner, outermost = bases[base], wrappers[-1]
    for wrapper in wrappers[:-1]:
        inner = WRAPPERS[wrapper](inner)
    outer = WRAPPERS[outermost](inner)
    place = ROWS[len(inner) > ROWS] if outermost == "Subset" else np.arange(len(inner))
    assert len(outer) == len(place)
    labelled = outermost != "Joined"  # of joined sets one may have no labels, and then none has
    assert outer.classes == (inner.classes if labelled else ())
    assert (outer.labels is None) == (inner.labels is None or not labelled)
    assert outer.labels is None or np.array_equal(outer.labels, np.asarray(inner.labels)[place])
    assert [outer.name(i) for i in range(len(outer))] == [inner.name(int(row)) for row in place]
    assert outer.in_memory == inner.in_memory
    assert outer.root == (None if outermost == "Joined" else inner.root)
    sound = set(readable_rows(inner))
    for i, row in enumerate(place.tolist()):
        if row in sound:
            assert outer.encoded(i) == inner.encoded(row)
    known = {i: inner.unreadable[row] for i, row in enumerate(place.tolist()) if row in inner.unreadable}
    assert outer.unreadable == ({} if outermost == "Readable" else known)
    index = np.array([len(outer) - 1, 0])
    found, expected = outer.identify(index), inner.identify(place[index])
    assert found.kind == expected.kind
    assert np.array_equal(found.contents, expected.contents)
    assert np.array_equal(found.times, expected.times)


def test_every_wrapper_is_tested(modules: list[tuple[Path, ast.Module]]) -> None:
    """Those of these modules are all that there are: no other class of the package hands on another set's images."""
    classes = [value for home in (module, kept) for value in vars(home).values() if isinstance(value, type)]
    own = {value.__name__ for value in classes if value.__module__ in (module.__name__, kept.__name__)}
    assert own == set(WRAPPERS)
    found = set()
    for _, tree in modules:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                if {"__getitem__", "__len__", "name", "encoded"} <= methods:
                    found.add(node.name)
    assert found == own | {"Images", "FileImages", "ArrayImages", "ShardImages", "Documents"}


def test_nobody_asks_for_the_kind_of_a_set(modules: list[tuple[Path, ast.Module]]) -> None:
    """What a set can do is asked of the set: no isinstance outside the module of the class."""
    home = {"FileImages": "images", "ArrayImages": "images", "ShardImages": "shards", "Named": "images"}
    home |= dict.fromkeys(WRAPPERS, "derived") | {"KeptImages": "kept"}
    for path, tree in modules:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                assert all(path.stem == home[name] for name in asked & set(home)), f"{path}:{node.lineno}"


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_subset_without_labels() -> None:
    """It has none either."""
    assert Subset(in_memory(3), np.array([1])).labels is None


def test_images_are_taken_evenly() -> None:
    """From the first to the last; all of them where there are no more."""
    images = in_memory(100)
    some = take_evenly(images, 4)
    assert [int(some[i][0, 0, 0]) for i in range(len(some))] == [0, 33, 66, 99]
    assert take_evenly(images, 100) is images


# --- stand-ins for a monitor ----------------------------------------------------------------------------------------


def test_a_monitor_sees_the_next_of_the_class() -> None:
    """Beyond the last image begins the first; each bad one is warned of once."""
    images = in_memory(6, {1: "#1: empty", 5: "#5: empty"})
    images.labels, images.classes = np.array([0, 1, 0, 1, 0, 1]), ("a", "b")
    whole = Readable(images)
    with pytest.warns(UserWarning, match="empty; in the monitor") as warned:
        found = [int(whole[i][0, 0, 0]) for _ in range(2) for i in range(6)]
    assert found == 2 * [0, 3, 2, 3, 4, 3]
    assert len(warned) == 2
    assert len(whole) == 6
    assert whole.labels is images.labels
    assert whole.name(1) == "#1"


@pytest.mark.filterwarnings("ignore:.*in the monitor")
def test_a_monitor_without_labels_sees_the_next() -> None:
    """Whatever it is; where a class has none, that is an error."""
    whole = Readable(in_memory(4, {1: "#1: empty", 2: "#2: empty"}))
    assert [int(whole[i][0, 0, 0]) for i in range(4)] == [0, 3, 3, 3]
    labelled = in_memory(3, {0: "#0: empty", 1: "#1: empty"})
    labelled.labels, labelled.classes = np.array([0, 0, 1]), ("a", "b")
    with pytest.raises(BadInputError, match="none of 2 images of a class can be read; the first: #0: empty"):
        Readable(labelled)[0]


def test_what_is_whole_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    """Files may go bad at any time."""
    images = in_memory(3)
    assert make_readable(images) is images
    part = Subset(in_memory(6, {1: "empty"}), np.array([0, 2]))
    assert make_readable(part) is part
    assert isinstance(make_readable(in_memory(3, {1: "empty"})), Readable)
    assert isinstance(make_readable(FileImages(str(tmp_path).encode(), PathTable([b"a.jpg"]))), Readable)


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_first_image_that_cannot_be_read(damaged: int) -> None:
    """Sets are in memory together whichever of their images are unreadable."""
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    parts = [ArrayImages(pixels, unreadable={0: "damaged"} if number == damaged else {}) for number in range(2)]
    joined = Joined((parts[0], parts[1]), ("", "more/"))
    assert joined.in_memory
    assert joined.stack(np.arange(8)) is not None
    assert not Joined((parts[0], ArrayImages(torch.zeros(4, 3, 9, 8, dtype=torch.uint8))), ("", "")).in_memory
