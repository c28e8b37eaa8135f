"""How folders are understood, on disk and in a tar file alike: splits, classes, masks; what is doubtful is said."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from moco.data import notes
from moco.data.catalog import load
from moco.data.images import Images
from moco.data.layout import find_start
from moco.data.tree import DiskTree, NameTree
from moco.errors import BadInputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices are kept in an empty folder, and every line is printed anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(notes, "_printed", set())


def png() -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    PillowImage.new("RGB", (2, 2)).save(buffer, "png")
    return buffer.getvalue()


def make(root: Path, *paths: str) -> Path:
    """A folder with these files; those of images are images."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png() if path.endswith("png") else b"")
    return root


def make_tar(path: Path, *paths: str) -> Path:
    """A tar file with the same files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in paths:
            content = png() if name.endswith("png") else b""
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def classes(images: Images) -> list[str]:
    """The class of each image; its folder is `-` without labels."""
    return ["-"] * len(images) if images.labels is None else [images.classes[label] for label in images.labels]


AB = ("a/1.png", "b/2.png")
LAYOUTS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "STL-10": (
        [*(f"{s}/{p}" for s in ("train", "test") for p in AB), "unlabeled/3.png"],
        {"train": ["a", "b"], "test": ["a", "b"], "unlabeled": ["-"]},
    ),
    "COCO": (
        ["train2017/1.png", "val2017/1.png", "test2017/1.png", "annotations/x.json"],
        {"train": ["-"], "val": ["-"], "test": ["-"]},
    ),
    "COCO with unlabeled": (["train2017/1.png", "unlabeled2017/2.png"], {"train": ["-"], "unlabeled": ["-"]}),
    "brain": ([f"{s}/{p}" for s in ("Training", "Testing") for p in AB], {"train": ["a", "b"], "test": ["a", "b"]}),
    "YOLO": (
        ["images/train/1.png", "images/val/2.png", "labels/train/1.txt", "labels/val/2.txt"],
        {"train": ["-"], "val": ["-"]},
    ),
    "ADE20K": (
        ["images/training/1.png", "images/validation/2.png", "annotations/training/1.png"],
        {"train": ["-"], "val": ["-"]},
    ),
    "Roboflow": (
        ["train/images/1.png", "train/labels/1.txt", "valid/images/1.png", "valid/labels/1.txt", "data.yaml"],
        {"train": ["-"], "val": ["-"]},
    ),
    "masks beside images": (["images/1.png", "images/2.png", "masks/1.png", "masks/2.png"], {"train": ["-", "-"]}),
    "masks in class folders": (
        ["sick/images/1.png", "sick/masks/1.png", "well/images/1.png", "well/masks/1.png"], {"train": ["sick", "well"]},
    ),
    "VOC": (
        ["JPEGImages/1.png", "SegmentationClass/1.png", "Annotations/1.xml"], {"train": ["-"]},
    ),
    "Carvana": (["train/1.png", "train_masks/1.png", "test/2.png"], {"train": ["-"], "test": ["-"]}),
    "Kaggle": (
        [f"{s}_set/{s}_set/{p}" for s in ("training", "test") for p in AB], {"train": ["a", "b"], "test": ["a", "b"]},
    ),
    "a folder around it": ([f"dataset/{s}/{p}" for s in ("train", "test") for p in AB],
                           {"train": ["a", "b"], "test": ["a", "b"]}),
    "trainval": ([f"{s}/{p}" for s in ("trainval", "test") for p in AB], {"train": ["a", "b"], "test": ["a", "b"]}),
    "train_val": ([f"{s}/{p}" for s in ("train_val", "test") for p in AB], {"train": ["a", "b"], "test": ["a", "b"]}),
    "truth beside classes": (
        ["good/1.png", "bad/1.png", "ground_truth/bad/1.png", "SegmentationClass/1.png"], {"train": ["bad", "good"]},
    ),
    "masks are worn": (["with_mask/1.png", "masks/1.png"], {"train": ["masks", "with_mask"]}),
    "only unlabeled": (["unlabeled/1.png", "test/a/2.png"], {"train": ["-"], "test": ["a"]}),
    "sports": (["training/1.png", "running/2.png"], {"train": ["running", "training"]}),
    "data": (["data/a/1.png", "data/b/2.png"], {"train": ["a", "b"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("tar", [False, True], ids=["folder", "tar"])
def test_layouts_of_known_sets(tmp_path: Path, name: str, tar: bool) -> None:
    """Splits are splits, masks are none of the images, and what holds images is no class."""
    paths, expected = LAYOUTS[name]
    splits = load(str(make_tar(tmp_path / "x.tar", *paths) if tar else make(tmp_path / "d", *paths)))
    found = {split: sorted(classes(images)) for split, images in splits.items()}
    if tar and name == "only unlabeled":
        expected = {"train": ["-"], "test": ["-"]}  # one class only
    assert found == expected


@pytest.mark.parametrize("name", ["STL-10", "COCO", "brain", "YOLO", "masks beside images", "a folder around it"])
def test_what_is_not_plain_is_said(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line with the folders as they are understood, or with what is left out, on standard error."""
    data = str(make(tmp_path / "d", *LAYOUTS[name][0]))
    load(data)
    said = capsys.readouterr()
    assert said.out == ""
    assert all(line.startswith(f"--data {data}: ") for line in said.err.splitlines())
    assert any(word in said.err for word in ("its splits", "masks or annotations"))
    load(data)
    assert capsys.readouterr().err == "", "once in a process"


def test_hidden_folders_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they hold, as hidden images are."""
    load(str(make(tmp_path / "d", "a/1.png", "b/2.png", ".thumbnails/1.png", "a/.cache/2.png", ".gitignore")))
    assert "2 train images; left out: 2 hidden folders (" in capsys.readouterr().err


def test_a_plain_folder_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes, and the names of splits that always were."""
    load(str(make(tmp_path / "1", "a/1.png", "b/2.png")))
    load(str(make(tmp_path / "2", "train/a/1.png", "val/a/2.png")))
    assert capsys.readouterr().err == ""


def test_folders_beside_train_are_said_to_be_unused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As before they are no part of the set, for `train` may be a vehicle."""
    assert len(load(str(make(tmp_path / "d", "train/1.png", "car/2.png")))["train"]) == 1
    assert "not used: car/" in capsys.readouterr().err


def test_splits_in_class_folders_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are not understood: the test images would be trained on."""
    make(tmp_path / "d", *(f"{c}/{s}/1.png" for c in ("a", "b") for s in ("train", "test")))
    assert len(load(str(tmp_path / "d"))["train"]) == 4
    assert "--exclude '*/test'" in capsys.readouterr().err
    assert len(load(str(tmp_path / "d"), ["*/test"])["train"]) == 2


def test_classes_inside_of_classes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folds, sites or years above the classes are not understood: they are its classes then."""
    make(tmp_path / "d", *(f"fold{i}/{c}/1.png" for i in (1, 2, 3) for c in ("cat", "dog")))
    assert set(classes(load(str(tmp_path / "d"))["train"])) == {"fold1", "fold2", "fold3"}
    said = capsys.readouterr().err
    assert "fold1/, fold2/, ... are its classes, and each holds cat/, dog/: if those are the classes" in said
    for name, other in {"one": "b/x/1.png", "others": "b/z/1.png", "loose": "b/1.png"}.items():
        load(str(make(tmp_path / name, "a/x/1.png", "a/y/1.png", "b/y/1.png", other, "c/x/1.png")))
    assert capsys.readouterr().err == ""


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    """Nobody can know which is meant."""
    with pytest.raises(BadInputError, match="both train2014/ and train2017/"):
        load(str(make(tmp_path / "d", "train2014/1.png", "train2017/1.png")))


def test_names_in_a_tar_are_a_tree(tmp_path: Path) -> None:
    """The same folders as on disk."""
    paths = ["data/a/1.png", "data/a/x/2.png", "data/b/3.png"]
    trees = NameTree("x.tar", map(str.encode, paths)), DiskTree(str(make(tmp_path / "d", *paths)))
    for below in (b"", b"data/", b"data/a/", b"data/a/x/"):
        assert trees[0].list(below).folders == trees[1].list(below).folders
        assert bool(trees[0].list(below).loose) == bool(trees[1].list(below).loose)
    assert {find_start(tree) for tree in trees} == {b"data/"}
