"""Searches a folder: its images in the byte order of their paths, and what is left out on the way."""

import errno
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import AnyStr

from moco.data.foldernames import find_annotations, find_masks, find_mixed_splits
from moco.data.kinds import Exclude, has_image_ending, is_system, why_no_image
from moco.data.notes import Notes
from moco.errors import TOO_MANY_OPEN, BadInputError

TICK = 20_000_000
"""Nanoseconds within which two changes of a folder may get the same time stamp: Linux counts steps of up to 10 ms."""
UNREADABLE = {
    errno.EACCES: "folder(s) without permission to read",
    errno.EPERM: "folder(s) without permission to read",
    errno.ENAMETOOLONG: "folder(s) nested too deep",
    errno.ELOOP: "link(s) in a circle",
}


@dataclass
class Search:
    """A search below `top`: what is asked for, and what it finds besides the images (or files of any kind)."""

    top: bytes
    exclude: Exclude = field(default_factory=Exclude)
    prefix: bytes = b""
    """The path of `top` below `--data`, which patterns are compared with, and a slash; empty for `--data` itself."""
    start: bytes = b""
    """The folder of the class folders, with a slash; empty for `top` itself."""
    notes: Notes = field(default_factory=Notes)
    any_kind: bool = False
    """Whether all files are meant; otherwise images, but none in folders of masks or annotations."""
    folders: list[bytes] = field(default_factory=list)
    """Every folder that was looked into."""
    times: list[list[int]] = field(default_factory=list)
    """When each was changed last."""
    classes: list[bytes] = field(default_factory=list)
    """The class folders that hold images, in the order of the paths ..."""
    counts: list[int] = field(default_factory=list)
    """... and how many."""
    loose: int = 0
    """Images outside of class folders."""

    def paths(self) -> Iterator[bytes]:
        """Yield the images' paths, and count their class folders on the way."""
        counts, latest = array("q"), b""
        for path in walk(self):
            first, slash, _ = path[len(self.start) :].partition(b"/")
            if not slash:
                self.loose += 1
            elif first == latest:
                counts[-1] += 1
            else:
                latest = first
                self.classes.append(first)
                counts.append(1)
            yield path
        self.counts = counts.tolist()


def walk(search: Search) -> Iterator[bytes]:
    """Yield the images of a folder in the order of their paths' bytes: folders sort as if their names ended in `/`.

    So the paths come one by one, and only the names of the folders on the way are in memory. A folder that is one of
    those above it, by a link, is passed over, as is one that cannot be read. Raises BadInputError where the top cannot.
    """
    chain: list[tuple[int, int]] = []  # device and number of each folder from the top to here
    levels = [iter([b""])]
    while levels:
        path = next(levels[-1], None)
        if path is None:
            levels.pop()
            if chain:
                chain.pop()
        elif path and not path.endswith(b"/"):
            yield path
        else:
            try:
                identity, names = _look_into(search, path, chain)
            except OSError as error:
                _pass_over(search, path, error)
                continue
            if identity is not None:
                chain.append(identity)
                levels.append(iter(names))


def _look_into(
    search: Search, below: bytes, chain: list[tuple[int, int]]
) -> tuple[tuple[int, int] | None, list[bytes]]:
    """List a folder: what it is, and its images and folders, sorted; None where it is one of those above it."""
    folder = os.path.join(search.top, below)
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in chain:
        search.notes.skip("link(s) to a folder above", os.fsdecode(search.prefix + below.rstrip(b"/")))
        return None, []
    times = [status.st_mtime_ns, status.st_ctime_ns]
    if 0 <= (young := time.time_ns() - max(times)) < TICK:  # a change yet to come could get the same stamp
        time.sleep((TICK - young) / 1e9)
        times = read_times(folder)
    search.folders.append(below)
    search.times.append(times)
    folders, files = list[bytes](), list[bytes]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_left_out(search, below, entry):
                continue
            if is_folder(entry):
                folders.append(entry.name)
            elif _is_image(search, below, entry):
                files.append(entry.name)
    if not search.any_kind:
        _remark(search, below, folders, files)
    for name in find_annotations(folders) if not search.any_kind else ():
        search.notes.skip("folder(s) of masks or annotations", os.fsdecode(search.prefix + below + name))
        folders.remove(name)
    names = [below + name for name in files] + [below + name + b"/" for name in folders]
    return identity, sorted(names)


def is_left_out(search: Search, below: bytes, entry: "os.DirEntry[bytes]") -> bool:
    """Tell whether a file or folder never counts, whatever it holds: the system's, a hidden one, an excluded one."""
    if is_system(entry.name):
        if is_folder(entry):
            search.notes.skip("system folder(s)", os.fsdecode(search.prefix + below + entry.name))
        return True
    if entry.name.startswith(b"."):
        if is_folder(entry):
            search.notes.skip("hidden folder(s)", os.fsdecode(search.prefix + below + entry.name))
        elif has_image_ending(entry.name):
            search.notes.skip("hidden")
        return True
    if search.exclude.fits(search.prefix + below + entry.name):
        search.notes.skip("by --exclude")
        return True
    return False


def is_folder(entry: "os.DirEntry[AnyStr]") -> bool:
    """Tell whether this is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: it is no file either
        return False


def is_regular(entry: "os.DirEntry[AnyStr]") -> bool:
    """Tell whether this is a regular file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # a link that cannot be followed, say in a circle
        return False


def _is_image(search: Search, below: bytes, entry: "os.DirEntry[bytes]") -> bool:
    """Tell whether a file is an image; count it where it is none."""
    reason: str | None
    try:
        path = os.path.join(search.top, below, entry.name)
        reason = "special" if not entry.is_file() else _why_not(search, path, entry.name)
    except OSError as error:  # it may be opened to see what it is
        if error.errno in TOO_MANY_OPEN:
            raise
        reason = "special" if error.errno == errno.ELOOP else "without permission to read"
    if reason == "special":
        broken = entry.is_symlink() and not os.path.exists(entry.path)
        kind = "broken link(s)" if broken else "pipe(s), socket(s) or device(s)"
        search.notes.skip(kind, os.fsdecode(search.prefix + below + entry.name))
    elif reason is not None:
        search.notes.skip(reason)
    return reason is None


def _why_not(search: Search, path: bytes, name: bytes) -> str | None:
    return None if search.any_kind else why_no_image(path, name, search.exclude.arrays)


def _remark(search: Search, below: bytes, folders: list[bytes], files: list[bytes]) -> None:
    """Keep remarks on what may not be meant as it is read."""
    where = os.fsdecode(search.prefix + below)
    if below and (mixed := find_mixed_splits(folders)):
        search.notes.remark(
            f"{where} holds {' and '.join(f'{name}/' for name in mixed)}, and all their images are taken: splits count "
            f"only above the class folders; leave some out with --exclude '*/{mixed[-1]}'"
        )
    if masks := find_masks(files):
        search.notes.remark(
            f"{len(masks)} images in {where or 'it'} are called like masks of others ({os.fsdecode(masks[0])}): if "
            f"they are, leave them out with --exclude"
        )


def _pass_over(search: Search, below: bytes, error: OSError) -> None:
    """Count a folder that cannot be read. Raises BadInputError where it is the top."""
    if error.errno in TOO_MANY_OPEN:
        raise error
    if not below:
        raise BadInputError(
            f"--data {os.fsdecode(search.top)}: cannot be read ({error.strerror}): expected a folder that this user "
            f"may read: change its permissions, or give another"
        ) from error
    reason = UNREADABLE.get(error.errno or 0, f"folder(s) that cannot be read: {error.strerror}")
    name = os.fsdecode(search.prefix + below)
    search.notes.skip(reason, name if len(name) < 200 else name[:100] + "...")


def read_times(folder: bytes) -> list[int]:
    """Read when a folder was changed last: programs that restore the first time cannot set back the second."""
    status = os.stat(folder)
    return [status.st_mtime_ns, status.st_ctime_ns]
