"""The files of a layout: found by names that stand in other files, which may not lead elsewhere."""

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from moco.data.images import EXTENSIONS
from moco.data.kinds import is_system
from moco.data.search import is_folder, is_regular
from moco.errors import BadInputError, quote
from moco.runtime.files import LARGEST_LIST, read_bounded

REFUSED = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of what no file name may have: control characters, halves of a character, ends of lines."""
HELD_OUT = 10
"""Where annotations have no splits, one image of so many is tested on."""


def require_folder(folder: Path, what: str) -> Path:
    """Return the folder. Raises BadInputError, with what it should hold, where it is not there."""
    if not folder.is_dir():
        raise BadInputError(f"{folder}: no such folder, expected {what}")
    return folder


def read_text(path: Path) -> str:
    """Read a file of text in UTF-8, or in UTF-16 with its mark. Raises BadInputError where it cannot be read."""
    try:
        content = read_bounded(path, LARGEST_LIST)
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}), expected text in UTF-8") from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file of text that are not blank."""
    return [line.strip() for line in re.split(r"[\r\n]+", read_text(path)) if line.strip()]


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden, or a system's own: thumbnails, waste, and the ._ files of macOS."""
    return name.startswith(".") or is_system(os.fsencode(name))


def is_system_path(path: Path, root: Path) -> bool:
    """Return whether a part of the path below the root is a system's own."""
    return any(is_system_name(part) for part in path.relative_to(root).parts)


def hold_out(count: int, split: str) -> list[int]:
    """Split images whose files name no split: every tenth is tested on. Returns the numbers of those in `split`."""
    return [number for number in range(count) if (number % HELD_OUT == 0) == (split == "test")]


def require_inside(name: object, source: Path) -> list[tuple[str, ...]]:
    """Return the parts of a file name read from `source`: as it is written, and with back-slashes between folders.

    Raises BadInputError where it could lead out of its folder.
    """
    if isinstance(name, str) and (name.isprintable() or not REFUSED & {unicodedata.category(one) for one in name}):
        forms = [tuple(part for part in re.split(cut, name) if part not in ("", ".")) for cut in ("/", r"[/\\]")]
        if forms[1] and ".." not in forms[1]:
            return list(dict.fromkeys(forms))
    raise _leads_out(name, source)


def name_readings(line: str) -> list[str]:
    """List the possible names in a line of a list: the line, or its first column, without quotation marks."""
    quoted = re.match(r"(['\"])(.+?)\1", line)
    if quoted:
        return [quoted[2]]
    return list(dict.fromkeys([line, line.rsplit(None, 1)[0], line.split()[0], re.split(r"[\t,;]", line)[0]]))


@dataclass
class _Listing:
    """The entries of a folder, and each by its name as a reader may take it for another."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    alike: dict[str, list[str]] = field(default_factory=dict)


class Folder:
    """The files below a folder; each directory is listed once, however many files are asked for.

    A name is looked up as it is written; then without regard to case and to different forms of accents and spaces; then
    without the folders that it begins with (absolute paths of another machine). `further` folders are looked into for
    the whole name only.
    """

    def __init__(self, root: Path, what: str, *further: Path) -> None:
        self.root = require_folder(root, what)
        self._further = further
        self._listed: dict[str, _Listing] = {}
        self._dropped: dict[str, tuple[str, ...]] = {}

    def find(self, name: object, source: Path) -> str:
        """Find the file that `source` names. Raises BadInputError if it is missing or outside the folder."""
        found = self._find(name, source, ("",))
        if found is None and isinstance(name, str) and re.match(r"[/\\]|[A-Za-z]:", name):
            raise _leads_out(name, source)
        if found is None:
            raise BadInputError(
                f"{self.root / str(name)}: no such file, and {source} names it: add it or drop it there"
            )
        return found

    def find_image(self, line: str, source: Path, endings: Iterable[str] = EXTENSIONS) -> str:
        """Find the path of the image that a line of `source` names, without its ending or with it."""
        every = (".jpg", *endings)
        for name in name_readings(line):
            found = self._find(name, source, (*every, ""))
            stem, ending = os.path.splitext(name)
            if found is None and ending.lower() in every:
                found = self._find(stem, source, every)
            if found is not None:
                return found
        if re.match(r"[/\\]|[A-Za-z]:", line):
            raise _leads_out(line, source)
        raise BadInputError(f"{self.root / line}.jpg: no such image, and {source} names it: add it or drop it there")

    def _find(self, name: object, source: Path, endings: tuple[str, ...]) -> str | None:
        forms = require_inside(name, source)
        for root, form, exact in product((self.root, *self._further), forms, (True, False)):
            for ending in endings:
                found = self._look_up(root, (*form[:-1], form[-1] + ending), exact=exact)
                if found is not None:
                    return self._keep(found, (), name, source)
        parts = forms[-1]
        for start, ending in product(range(1, len(parts)), endings):
            found = self._look_up(self.root, (*parts[start:-1], parts[-1] + ending), exact=False)
            if found is not None:
                return self._keep(found, parts[:start], name, source)
        return None

    def _keep(self, found: str, dropped: tuple[str, ...], name: object, source: Path) -> str:
        """The path, unless names that begin with different folders lead to it."""
        if self._dropped.setdefault(found, dropped) != dropped:
            raise BadInputError(
                f"{source}: file name {quote(name)} and one from another folder both match {found}: expected one file "
                f"for each: correct them"
            )
        return found

    def _look_up(self, root: Path, parts: tuple[str, ...], *, exact: bool) -> str | None:
        place = str(root)
        for depth, part in enumerate(parts, start=1):
            listing = self._list(place)
            names = listing.files if depth == len(parts) else listing.folders
            if part not in names:
                alike = [] if exact else [name for name in listing.alike.get(_fold(part), ()) if name in names]
                if len(alike) != 1:
                    return None
                part = alike[0]
            place = os.path.join(place, part)
        return place

    def _list(self, place: str) -> _Listing:
        if place not in self._listed:
            listing = _Listing()
            try:
                entries = [entry for entry in os.scandir(place) if not is_system(os.fsencode(entry.name))]
            except OSError:
                entries = []
            for entry in entries:
                if is_folder(entry):
                    listing.folders.add(entry.name)
                elif is_regular(entry):  # not a pipe or device, which could block
                    listing.files.add(entry.name)
                listing.alike.setdefault(_fold(entry.name), []).append(entry.name)
            self._listed[place] = listing
        return self._listed[place]


def _fold(name: str) -> str:
    """A name as it reads: in one case, with composed accents and plain spaces."""
    return unicodedata.normalize("NFKC", name).casefold()


def _leads_out(name: object, source: Path) -> BadInputError:
    return BadInputError(f"{source}: file name {quote(name)}, expected one inside the folder of images: correct it")
