"""Where the annotations and the images of a split lie: COCO's own folders, LVIS', Roboflow's, CVAT's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moco.errors import BadInputError
from moco.transfer.files import Folder, is_system_name

YEARS = ("2017", "", "2014")
WORDS = {"train": ("train", "training"), "test": ("val", "valid", "validation", "test", "testing")}
"""What the splits are called; COCO's own test images have no annotations, so val comes first."""
ROBOFLOW = "_annotations.coco.json"
OTHERS_SPLITS = {"train": ("train",), "test": ("test", "valid", "val", "validation")}
"""The folders of splits that hold images and annotations, as Roboflow writes them."""
LOOKED_INTO = 4096
"""Bytes of a file that tell labelme's own from COCO's."""


@dataclass(frozen=True)
class CocoFiles:
    """The annotations of a split and the folder of its images; `whole`: they are of all images, without splits."""

    path: Path
    images: Folder
    whole: bool = False


def find_coco(data: Path, split: str, prefix: str) -> CocoFiles:
    """Find the files of a split. Raises BadInputError, naming what was expected, where there are none."""
    name = "val" if split == "test" else "train"
    for path, year in _named(data, split, prefix):
        if path.is_file():
            beside = ["."] if path.parent == data else []  # as labelme2coco leaves them
            return CocoFiles(path, image_folder(data, [*_image_folders(path, name, year), *beside]))
    for folder in OTHERS_SPLITS[split]:
        for path in (data / folder / ROBOFLOW, data / folder / "annotations.json"):
            if path.is_file():
                return CocoFiles(path, Folder(path.parent, "the images of a split"))
    alone = _only_file(data, prefix)
    if alone is not None:
        return CocoFiles(alone, image_folder(data, ["default", "images", "data", "."]), whole=True)
    tried = list(dict.fromkeys(path.name for path, _ in _named(data, split, prefix)))
    raise BadInputError(
        f"{data / 'annotations' / tried[0]}: no such file, expected it or one of {', '.join(tried[1:4])}, or "
        f"{OTHERS_SPLITS[split][0]}/{ROBOFLOW}{_describe_labelme(data)}"
    )


def image_folder(data: Path, names: list[str]) -> Folder:
    """Return the first of the folders in D or in its `images`; a name may also be one from D on."""
    for folder in (place / name for name in names for place in (data, data / "images")):
        if folder.is_dir():
            return Folder(folder, "the images of a split", data)
    raise BadInputError(f"{data}: no folder {' or '.join(dict.fromkeys(names))}, expected the images of a split")


def first_file(paths: list[Path]) -> Path:
    """Return the first that is there. Raises BadInputError where none is."""
    for path in paths:
        if path.is_file():
            return path
    raise BadInputError(f"{paths[0]}: no such file, expected it or one of {', '.join(path.name for path in paths[1:])}")


def _named(data: Path, split: str, prefix: str) -> Iterator[tuple[Path, str]]:
    """The files that may hold a split's annotations, each with its year: COCO's names, then others' like them."""
    folder = data / "annotations"
    usual, *others = WORDS[split]
    for year in YEARS:
        yield folder / f"{prefix}_{usual}{year}.json", year
    found = {path.name.lower(): path for path in sorted(folder.glob("*.json")) if not is_system_name(path.name)}
    for word in (usual, *others):
        for name in (f"{prefix}_{word}", word, f"{word}_annotations", f"annotations_{word}", f"{word}_coco"):
            if f"{name}.json" in found:
                yield found[f"{name}.json"], ""
    for word in (usual, *others):
        yield data / f"{word}.json", ""


def _image_folders(path: Path, name: str, year: str) -> list[str]:
    """What the folder of a split's images may be called, from the name of its annotations."""
    word = next((word for words in WORDS.values() for word in words if path.stem.lower().endswith(word)), name)
    return list(dict.fromkeys([f"{name}{year}", name, f"{name}2017", word, word.capitalize(), "images"]))


def _only_file(data: Path, prefix: str) -> Path | None:
    """The one file of annotations, where nothing says of which split it is."""
    default = data / "annotations" / f"{prefix}_default.json"
    if default.is_file():
        return default
    for folder in (data / "annotations", data):
        found = [path for path in sorted(folder.glob("*.json")) if not is_system_name(path.name)]
        if len(found) == 1 and not _is_labelme(found[0]) and _is_coco(found[0]):
            return found[0]
    return None


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LOOKED_INTO)
    except OSError:
        return b""


def _is_labelme(path: Path) -> bool:
    return path.is_file() and b'"shapes"' in _start_of(path)


def _is_coco(path: Path) -> bool:
    return path.is_file() and any(
        key in _start_of(path) for key in (b'"images"', b'"annotations"', b'"categories"', b'"info"')
    )


def _describe_labelme(data: Path) -> str:
    if any(_is_labelme(path) for path in sorted(data.glob("*.json"))[:10]):
        return "; the .json files are labelme's, one an image: convert them to COCO's format, such as by labelme2coco"
    return ""
