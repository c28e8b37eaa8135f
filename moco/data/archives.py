"""A zip or compressed tar file -> an uncompressed tar file in the cache, made once, which is read by offset."""

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from moco.data.conversion import convert_once, identify_file
from moco.data.kinds import is_system, read_head, sniff
from moco.errors import BadInputError

FOLDER = "archives"
"""Below the folder of the named data sets."""
PIECE = 1 << 20
LARGEST_RATIO, LEAST_LIMIT = 100, 1 << 30
"""An archive may unpack to so many times its size, or so many bytes: images hardly get smaller when they are packed."""
BROKEN = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What damaged, encrypted and unknown archives raise."""
STREAMS: dict[str, Callable[[Path], IO[bytes]]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}  # type: ignore[dict-item]


def open_archive(path: Path) -> Path:
    """Return the tar file that holds what an archive does; it is made at the first time, and that is said.

    It belongs to the archive's place, size and time of change. Raises BadInputError where the archive is damaged,
    encrypted, of a kind that is not read, too large for the disk, or holds no tar file.
    """
    kind = sniff(read_head(os.fspath(path))) or ""
    advice = "unpack it, and give the folder as --data"
    if kind not in ("zip", *STREAMS):
        raise BadInputError(f"--data {path}: an archive of {kind}, which is not read: {advice}")
    largest = max(LEAST_LIMIT, LARGEST_RATIO * path.stat().st_size)

    def write(partial: Path, room: int) -> None:
        try:
            with partial.open("wb") as file:
                (_convert_zip if kind == "zip" else _decompress)(path, kind, file, min(largest, room))
        except BROKEN as error:
            raise BadInputError(f"--data {path}: cannot be unpacked ({error}): get it again, or {advice}") from error

    name = f"{path.name.partition('.')[0]}.tar"
    return convert_once(path, FOLDER, name, [identify_file(path)], "unpacking it", "cannot be unpacked", write)


def require_room(path: Path, size: int, limit: int) -> None:
    """Raise BadInputError where what is unpacked takes more than `limit` bytes."""
    if size > limit:
        raise BadInputError(
            f"--data {path}: unpacks to more than {limit / 1e9:.1f} GB, more than the disk has room for or images "
            f"take: unpack it where there is room, and give the folder as --data"
        )


def _decompress(path: Path, kind: str, file: IO[bytes], limit: int) -> None:
    """Write the tar file that lies compressed in `path`."""
    size = 0
    with STREAMS[kind](path) as source:
        while piece := source.read(PIECE):
            if size == 0 and (len(piece) < 512 or piece[257:262] != b"ustar"):
                raise BadInputError(f"--data {path}: a {kind} file that holds no tar file: decompress it first")
            size += len(piece)
            require_room(path, size, limit)
            file.write(piece)


def _convert_zip(path: Path, kind: str, file: IO[bytes], limit: int) -> None:
    """Write the files of a zip archive as a tar file."""
    with zipfile.ZipFile(path) as archive, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        members = [info for info in archive.infolist() if not info.is_dir()]
        require_room(path, sum(info.file_size + 1024 for info in members), limit)
        for info in sorted(members, key=lambda info: os.fsencode(info.filename)):  # as files of a folder sort
            if any(is_system(part) for part in os.fsencode(info.filename).split(b"/")):
                continue
            member = tarfile.TarInfo(info.filename.replace("\\", "/"))
            member.size = info.file_size
            with archive.open(info) as source:
                tar.addfile(member, source)
