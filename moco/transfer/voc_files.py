"""Where the images, XML files and lists of a split lie: in PASCAL VOC's folders, in Roboflow's, or without lists."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from moco.errors import BadInputError
from moco.transfer.files import Folder, hold_out, is_system_path, read_lines, require_folder

TESTED, VALIDATED = ("test.txt",), ("val.txt", "valid.txt", "validation.txt")
ALL_BUT_TESTED, TRAINED = ("trainval.txt", "train.txt"), ("train.txt", "training.txt")
WHOLE = "default.txt"
"""CVAT's list of all images, where they have no splits."""
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "valid", "val", "validation")}
"""Folders with images beside their XML files, as Roboflow writes them."""
PLAIN_FOLDERS = (("Annotations", "JPEGImages"), ("annotations", "images"), (".", "."))
"""Folders of XML files and of images without any list."""


@dataclass(frozen=True)
class VocList:
    """The images that a list names, which are of a split or, where `whole`, of all splits together."""

    path: Path
    whole: bool = False

    @property
    def root(self) -> Path:
        """Return the folder that holds ImageSets."""
        return self.path.parents[2]

    def lines(self, split: str) -> list[str]:
        """Return the lines of the split's images."""
        lines = read_lines(self.path)
        return [lines[number] for number in hold_out(len(lines), split)] if self.whole else lines


def roots(data: Path, part: str) -> list[Path]:
    """Find the folders with ImageSets and `part`: this one, or those in it (VOC2007, VOC2012) or its VOCdevkit."""
    for place in (data, data / "VOCdevkit"):
        candidates = [place, *(sorted(place.iterdir()) if place.is_dir() else ())]
        found = [folder for folder in candidates if (folder / "ImageSets" / part).is_dir()]
        if found:
            return found
    raise BadInputError(f"{data}: no ImageSets/{part} in it or in a folder of it, expected PASCAL VOC's layout")


def split_lists(folders: list[Path], part: str, split: str) -> list[VocList]:
    """Find the lists of a split. Test: test.txt if there is one, else val.txt. Train: everything not tested on.

    With a test.txt that is trainval.txt (or train.txt), without one train.txt alone. Where there is only default.txt, a
    tenth of it is tested on.
    """
    sets = [folder / "ImageSets" / part for folder in folders]
    listed = [{path.name.lower(): path for path in sorted(folder.glob("*.txt"), reverse=True)} for folder in sets]
    tested = any("test.txt" in names for names in listed)
    wanted = {"test": TESTED if tested else VALIDATED, "train": ALL_BUT_TESTED if tested else TRAINED}[split]
    found = [VocList(names[name]) for names in listed for name in [name for name in wanted if name in names][:1]]
    if not found and not any(name in names for names in listed for name in (*TESTED, *VALIDATED, *ALL_BUT_TESTED)):
        found = [VocList(names[WHOLE], whole=True) for names in listed if WHOLE in names]
        if found:
            _say_how_held_out(found[0].path, split)
    if not found:
        raise BadInputError(f"{sets[0]}: no {' and no '.join(wanted)}, expected lists of the images of a split")
    return found


def annotated_files(data: Path, split: str) -> list[tuple[str, Path]]:
    """Return each image of a split with its XML file. Raises BadInputError naming what is missing."""
    beside = _folders_of_splits(data)
    if beside:
        folders = [beside[name] for name in SPLIT_FOLDERS[split] if name in beside][:1]
        if not folders:
            raise BadInputError(f"{data}: no folder {' or '.join(SPLIT_FOLDERS[split])} with XML files, expected one")
        return _pairs(folders[0], Folder(folders[0], "images beside their XML files"))
    plain = None if _has_lists(data) else _plain_folders(data)
    if plain:
        _say_how_held_out(plain[0], split)
        every = _pairs(plain[0], Folder(plain[1], "the images of XML files"))
        return [every[number] for number in hold_out(len(every), split)]
    pairs = list[tuple[str, Path]]()
    for listed in split_lists(roots(data, "Main"), "Main", split):
        images = Folder(listed.root / "JPEGImages", "PASCAL VOC's images")
        annotations = Folder(listed.root / "Annotations", "PASCAL VOC's XML files")
        for line in listed.lines(split):
            path = images.find_image(line, listed.path)
            pairs.append((path, Path(annotations.find(f"{name_below(path, images)}.xml", listed.path))))
    return pairs


def every_xml(data: Path) -> list[Path]:
    """Return the XML files of all splits."""
    beside = _folders_of_splits(data)
    plain = None if beside or _has_lists(data) else _plain_folders(data)
    folders = [plain[0]] if plain else list(beside.values())
    if not folders:
        folders = [require_folder(root / "Annotations", "PASCAL VOC's XML files") for root in roots(data, "Main")]
    return [path for folder in folders for path in _xml_below(folder)]


def name_below(path: str, images: Folder) -> str:
    """Return an image's name below its folder, without its ending: that of what belongs to it."""
    return os.path.splitext(os.path.relpath(path, images.root))[0].replace(os.sep, "/")


def _pairs(xml: Path, images: Folder) -> list[tuple[str, Path]]:
    return [
        (images.find_image(os.path.relpath(path, xml).removesuffix(".xml"), path), path) for path in _xml_below(xml)
    ]


def _xml_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.xml") if not is_system_path(path, folder) and path.is_file())


def _has_lists(data: Path) -> bool:
    return any(next(data.glob(f"{above}ImageSets"), None) for above in ("", "*/", "VOCdevkit/*/"))


def _folders_of_splits(data: Path) -> dict[str, Path]:
    """The folders of splits that hold XML files, by name; none where there are lists."""
    names = [name for names in SPLIT_FOLDERS.values() for name in names]
    found = {name: data / name for name in names if next((data / name).glob("*.xml"), None)}
    return {} if _has_lists(data) else found


def _plain_folders(data: Path) -> tuple[Path, Path] | None:
    for xml, images in PLAIN_FOLDERS:
        if (data / images).is_dir() and next((data / xml).glob("*.xml"), None):
            return data / xml, data / images
    return None


def _say_how_held_out(path: Path, split: str) -> None:
    if split == "train":
        warnings.warn(
            f"{path}: no lists of splits: every tenth image is tested on, and the others are trained on", stacklevel=3
        )
