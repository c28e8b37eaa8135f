"""Features on disk in pieces, so that a killed command keeps what it has encoded."""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.errors import BadInputError
from moco.runtime.files import open_bounded, require_regular
from moco.runtime.folder import lock

ENDING = ".unfinished"
"""Suffix of the file name for pieces."""
NUMBERS, LIST = "features.f32", "pieces.jsonl"
LARGEST_LIST = 1 << 30
IMAGES_IN_A_PIECE, BYTES_IN_A_PIECE = 4096, 64 << 20
"""Images and bytes of a piece, at most: what a kill costs, and what is held in memory."""
READ_AT_A_TIME = 16 << 20
Floats = npt.NDArray[np.float32]


@dataclass
class Pieces:
    """A file of fp32 rows, and a list that says of each piece its rows, checksum and the images left out of it.

    A piece is in the list when its rows are on the disk; what stands behind the last listed piece is cut off.
    """

    folder: Path
    width: int
    """Numbers of a row."""
    unreadable: list[dict[int, str]] = field(default_factory=list)
    """For each piece the numbers of the images that it does not hold, and why."""
    rows: int = 0

    def __len__(self) -> int:
        return len(self.unreadable)

    def append(self, features: Floats, unreadable: Mapping[int, str]) -> None:
        """Add a piece (n, width). Raises BadInputError where it cannot be written."""
        content = np.ascontiguousarray(features, np.float32).tobytes()
        left_out = {str(row): reason for row, reason in unreadable.items()}
        line = json.dumps({"rows": len(features), "crc": zlib.crc32(content), "unreadable": left_out})
        with _explained(self.folder):
            for name, added in ((NUMBERS, content), (LIST, line.encode() + b"\n")):
                with (self.folder / name).open("ab") as file:
                    _write_through(file.fileno(), added)
        self.unreadable.append(dict(unreadable))
        self.rows += len(features)

    def read(self) -> Floats:
        """Map the features (rows, width) from the disk."""
        if not self.rows:
            return np.zeros((0, self.width), np.float32)
        return np.memmap(self.folder / NUMBERS, np.float32, "r", shape=(self.rows, self.width))

    def remove(self) -> None:
        """Remove them: the file that was made of them is in its place."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def opened_pieces(out: Path, about: Mapping[str, Any], width: int) -> Iterator[Pieces]:
    """Hold the pieces for a file, with those that an earlier call of the same `about` left; others are removed.

    Raises BadInputError where another process holds them, or they cannot be written.
    """
    folder = out.with_name(out.name + ENDING)
    with contextlib.ExitStack() as held:
        with _explained(folder):
            held.enter_context(lock(folder))
            found = _find_sound(folder, about, width)
        yield found


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what to do where the pieces cannot be written; the caller's own errors, such as of loading, pass outside."""
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"--out {folder.with_name(folder.name.removesuffix(ENDING))}: cannot be written "
            f"({error.strerror or error}): make room and run the command again, which continues from {folder}"
        ) from error


def _find_sound(folder: Path, about: Mapping[str, Any], width: int) -> Pieces:
    """Read the list as far as it and the numbers are whole, and cut both off there."""
    found, kept, size = Pieces(folder, width), _as_line(about), 0
    for path in (folder / NUMBERS, folder / LIST):
        require_regular(path)
        path.touch()
    with open_bounded(folder / LIST, LARGEST_LIST) as lines, (folder / NUMBERS).open("rb") as numbers:
        if lines.readline() != kept:
            lines.seek(0, os.SEEK_END)
        for line in lines:
            piece = _read_piece(line, width)
            if piece is None or _checksum(numbers, piece[0] * width * 4) != piece[1]:
                break
            found.unreadable.append(piece[2])
            found.rows += piece[0]
            kept += line
    size = found.rows * width * 4
    with (folder / NUMBERS).open("r+b") as numbers, (folder / LIST).open("r+b") as lines:
        numbers.truncate(size)
        lines.truncate(0)
        _write_through(lines.fileno(), kept)
    return found


def _as_line(about: Mapping[str, Any]) -> bytes:
    return json.dumps(about, sort_keys=True).encode() + b"\n"


def _read_piece(line: bytes, width: int) -> tuple[int, int, dict[int, str]] | None:
    """Read a line of the list: rows, checksum, unreadable; None where it is not whole."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        own = json.loads(line)
        if line.endswith(b"\n") and 0 <= own["rows"] * width < 1 << 40:
            return int(own["rows"]), int(own["crc"]), {int(row): str(why) for row, why in own["unreadable"].items()}
    return None


def _checksum(file: Any, size: int) -> int | None:
    """Compute the CRC-32 of the next `size` bytes; None where there are fewer."""
    crc = 0
    while size:
        part = file.read(min(size, READ_AT_A_TIME))
        if not part:
            return None
        crc, size = zlib.crc32(part, crc), size - len(part)
    return crc


def checksum_rows(features: Floats) -> int:
    """Compute the CRC-32 of features as bytes, a part at a time."""
    crc, at_a_time = 0, max(1, READ_AT_A_TIME // max(1, features[:1].nbytes))
    for start in range(0, len(features), at_a_time):
        crc = zlib.crc32(np.ascontiguousarray(features[start : start + at_a_time]).data.cast("B"), crc)
    return crc


def _write_through(descriptor: int, content: bytes) -> None:
    """Write all of it, until it is on the disk."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def plan_pieces(counts: Sequence[int], batch_size: int, width: int) -> list[tuple[int, range]]:
    """Divide sets of so many images into pieces of whole batches: the number of the set, and rows of it.

    A piece has at most 4,096 images and 64 MB of features, or one batch.
    """
    wanted = min(IMAGES_IN_A_PIECE, BYTES_IN_A_PIECE // (4 * width))
    size = max(1, wanted // batch_size) * batch_size
    return [
        (number, range(start, min(start + size, count)))
        for number, count in enumerate(counts)
        for start in range(0, count, size)
    ]
