"""The folders of a set of images, on disk or in the names of tar files: what their layout is understood by."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moco.data.foldernames import find_annotations
from moco.data.kinds import Exclude, has_image_ending
from moco.data.search import Search, is_folder, is_left_out, walk
from moco.errors import BadInputError

SHARD = b".tar"


@dataclass
class Listing:
    """The content of a folder, as far as names show it."""

    folders: list[bytes] = field(default_factory=list)
    """Sub-folders except those of masks and annotations; sorted."""
    annotations: list[bytes] = field(default_factory=list)
    loose: list[bytes] = field(default_factory=list)
    """Files with the ending of an image."""
    shards: list[bytes] = field(default_factory=list)
    """Files with the ending of a tar file."""


@runtime_checkable
class Tree(Protocol):
    """Folders by their paths below the top, each with a slash at its end; the top is empty."""

    name: str
    """What messages call the top."""

    def list(self, below: bytes) -> Listing:
        """List a folder. Raises BadInputError where it cannot be read."""

    def holds_data(self, below: bytes) -> bool:
        """Tell whether there is an image or a tar file anywhere below a folder."""


@dataclass
class DiskTree:
    """The folders below one on disk."""

    name: str
    exclude: Exclude = field(default_factory=Exclude)
    prefix: bytes = b""
    """The path of the top below `--data`, which patterns are compared with, and a slash."""

    def list(self, below: bytes) -> Listing:
        """List a folder. Raises BadInputError where it cannot be read."""
        search, listing = Search(self._path(below), self.exclude, self.prefix + below), Listing()
        try:
            with os.scandir(search.top) as entries:
                for entry in entries:
                    if is_left_out(search, b"", entry):
                        continue
                    if is_folder(entry):
                        listing.folders.append(entry.name)
                    elif has_image_ending(entry.name, self.exclude.arrays):
                        listing.loose.append(entry.name)
                    elif entry.name.lower().endswith(SHARD):
                        listing.shards.append(entry.name)
        except OSError as error:
            raise BadInputError(
                f"--data {os.fsdecode(search.top)}: cannot be read ({error.strerror}): expected a folder that this "
                f"user may read: change its permissions, or give another"
            ) from error
        return _part_annotations(listing)

    def holds_data(self, below: bytes) -> bool:
        """Tell whether there is an image or a tar file anywhere below a folder; what cannot be read holds none."""
        try:
            listing = self.list(below)
            return bool(listing.loose or listing.shards) or (
                next(walk(Search(self._path(below), self.exclude, self.prefix + below)), None) is not None
            )
        except BadInputError:
            return False

    def _path(self, below: bytes) -> bytes:
        return os.path.join(os.fsencode(self.name), below).rstrip(b"/") or b"/"


class NameTree:
    """The folders in the names of images that lie in tar files."""

    def __init__(self, name: str, paths: Iterable[bytes]) -> None:
        self.name = name
        self._listings = {b"": Listing()}
        latest: bytes | None = None
        for path in paths:
            folder, slash, last = path.rpartition(b"/")
            if folder != latest:
                self._make(folder + slash)
                latest = folder
            if not self._listings[folder + slash].loose:  # one is enough to know
                self._listings[folder + slash].loose.append(last)
        for listing in self._listings.values():
            _part_annotations(listing)

    def _make(self, folder: bytes) -> None:
        """Make the listing of a folder, and of those above it, which name it."""
        for end in (i + 1 for i, byte in enumerate(folder) if byte == ord("/")):
            if folder[:end] not in self._listings:
                above, slash, name = folder[: end - 1].rpartition(b"/")
                self._listings[above + slash].folders.append(name)
                self._listings[folder[:end]] = Listing()

    def list(self, below: bytes) -> Listing:
        """List a folder."""
        return self._listings[below]

    def annotations(self) -> tuple[bytes, ...]:
        """Name all folders of masks and annotations, each with a slash at its end."""
        return tuple(below + name + b"/" for below, listing in self._listings.items() for name in listing.annotations)

    def holds_data(self, below: bytes) -> bool:
        """Tell whether there is an image below a folder: there is, or nobody would know of it."""
        return below in self._listings


def _part_annotations(listing: Listing) -> Listing:
    listing.annotations = find_annotations(listing.folders)
    listing.folders = sorted(name for name in listing.folders if name not in listing.annotations)
    return listing
