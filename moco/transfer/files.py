"""The files of a layout: found by names that stand in other files, which may not lead elsewhere."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from moco.data.images import EXTENSIONS
from moco.errors import BadInputError


def require_folder(folder: Path, what: str) -> Path:
    """The folder. Raises BadInputError, with what it should hold, where it is not there."""
    if not folder.is_dir():
        raise BadInputError(f"{folder}: no such folder, expected {what}")
    return folder


def read_text(path: Path) -> str:
    """A file of text. Raises BadInputError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}), expected text in UTF-8") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file of text that are not blank."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def require_inside(name: object, source: Path) -> str:
    """A file name read from `source`, if it stays in the folder that it is meant for. Raises BadInputError if not."""
    if isinstance(name, str) and name and name.isprintable():
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if not (posix.is_absolute() or windows.drive or windows.root or {".", ".."} & {*posix.parts, *windows.parts}):
            return name
    raise BadInputError(f"{source}: file name {name!r}, expected one inside the folder of images: correct it")


class Folder:
    """The files below a folder; each directory is listed once, however many files are asked for."""

    def __init__(self, root: Path, what: str) -> None:
        self.root = require_folder(root, what)
        self._listed: dict[str, set[str]] = {}

    def find(self, name: object, source: Path) -> str:
        """The path of a file that `source` names. Raises BadInputError where it is not there, or not in the folder."""
        parent, _, last = require_inside(name, source).rpartition("/")
        if last in self._names(parent):
            return os.path.join(self.root, parent, last)
        raise BadInputError(f"{self.root / str(name)}: no such file, and {source} names it: add it or drop it there")

    def find_image(self, stem: str, source: Path, endings: Iterable[str] = EXTENSIONS) -> str:
        """The path of the image that `source` names without its ending."""
        parent, _, last = require_inside(stem, source).rpartition("/")
        names = self._names(parent)
        for ending in (".jpg", *endings):
            for written in (last + ending, last + ending.upper()):
                if written in names:
                    return os.path.join(self.root, parent, written)
        raise BadInputError(f"{self.root / stem}.jpg: no such image, and {source} names it: add it or drop it there")

    def _names(self, parent: str) -> set[str]:
        if parent not in self._listed:
            try:
                self._listed[parent] = set(os.listdir(os.path.join(self.root, parent)))
            except OSError:
                self._listed[parent] = set()
        return self._listed[parent]
