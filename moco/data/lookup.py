"""Names as people write them -> the files that they mean: another spelling of a letter, a space, a slash, an ending."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from moco.data.kinds import has_image_ending

MOST_TAILS = 12
"""Folders that may be missing at the front of a path."""
PARENTS = 3
"""Number of folders above a list that may be the start of its paths."""


def fold_name(name: str) -> str:
    """Fold what looks alike: composed letters, all kinds of spaces, capitals."""
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in unicodedata.normalize("NFC", name))
    return unicodedata.normalize("NFC", spaced.strip().casefold())


class Finder:
    """Finds files by paths that may be written otherwise; each folder is listed once, and only when it is needed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        above = [str(path) for path in Path(os.path.abspath(folder)).parents][:PARENTS]
        self.bases = list(dict.fromkeys([folder, *above, os.getcwd()]))
        self._listed = dict[str, dict[str, list[str]]]()

    def find(self, written: str) -> str | None:
        """Find the file that a path means, as a path that is absolute or begins in the list's folder; None without one.

        What is there as it is written goes before everything else.
        """
        if self._is_file(written):
            return written
        for text in self._spellings(written):
            for base in self.bases:
                path = text if base == self.folder else os.path.join(base, text)
                if self._is_file(path):
                    return path
        for text in self._spellings(written):
            for tail in self._tails(text):
                for base in self.bases if tail == text else self.bases[:2]:
                    found = self._resolve(base, tail)
                    if found is not None:
                        return os.path.relpath(found, self.folder) if base == self.folder else found
        return None

    def _is_file(self, path: str) -> bool:
        try:
            return os.path.isfile(os.path.join(self.folder, path))
        except ValueError:  # a NUL in it
            return False

    @staticmethod
    def _spellings(written: str) -> Iterator[str]:
        """Yield the path itself, and as it reads with its home folder, other slashes, or in another encoding."""
        yield written
        if written.startswith("~"):
            yield os.path.expanduser(written)
        if written.startswith("file://"):
            yield written.removeprefix("file://")
        if "\\" in written:
            yield written.replace("\\", "/").removeprefix("./")
        if any("\udc80" <= char <= "\udcff" for char in written):  # not UTF-8: what Windows wrote in western Europe
            yield written.encode("utf-8", "surrogateescape").decode("cp1252", "replace")

    @staticmethod
    def _tails(text: str) -> Iterator[str]:
        """Yield the path, and what remains of it without its first folders: data that was moved keeps its tail."""
        yield text
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if parts and len(parts[0]) == 2 and parts[0][1] == ":":  # a disk of Windows
            parts = parts[1:]
            yield "/".join(parts)
        for first in range(1, min(len(parts), MOST_TAILS)):
            yield "/".join(parts[first:])

    def _resolve(self, base: str, path: str) -> str | None:
        """Follow a path part by part, each by its folded name where that is of one entry only."""
        place = "/" if path.startswith("/") else base
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for number, part in enumerate(parts):
            following = os.path.join(place, part)
            if part != ".." and not os.path.lexists(following):
                names = self._list(place)
                found = names.get(fold_name(part), [])
                if not found and number == len(parts) - 1:  # without its ending
                    found = names.get(fold_name(part) + ".*", [])
                if len(found) != 1:
                    return None
                following = os.path.join(place, found[0])
            place = following
        return place if parts and os.path.isfile(place) else None

    def _list(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder by their folded names; images without their endings, too, under `stem.*`."""
        if folder not in self._listed:
            names = dict[str, list[str]]()
            try:
                for name in os.listdir(folder):
                    names.setdefault(fold_name(name), []).append(name)
                    if has_image_ending(os.fsencode(name)):
                        names.setdefault(fold_name(os.path.splitext(name)[0]) + ".*", []).append(name)
            except OSError:
                pass
            self._listed[folder] = names
        return self._listed[folder]
