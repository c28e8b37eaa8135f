"""The places of the files in an uncompressed tar file; nothing is extracted and no name in it is used as a path.

Reads V7, ustar, GNU (long names, large sizes) and PAX (path, size) headers, and tar files that were joined. Links,
devices and what is unknown are passed over and counted; directories are passed over.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from moco.data.notes import Notes
from moco.errors import BadInputError, quote

BLOCK = 512
REGULAR = (b"0", b"\0", b"7")
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, directories and pipes, whatever size their header claims."""
LONG_NAME, LONG_LINK, SPARSE = b"L", b"K", b"S"
PAX, PAX_OF_ALL = (b"x", b"X"), b"g"
LONGEST_NAME = 1 << 20
"""The content of a GNU or PAX header may have so many bytes."""
GZIP = b"\x1f\x8b"
DIRECTORY, LINKS = b"5", (b"1", b"2")
PIECE = 1 << 20
PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file: its content is `length` bytes from `offset` on."""

    name: bytes
    offset: int
    length: int


def read_members(descriptor: int, shard: str, notes: Notes | None = None) -> Iterator[Member]:
    """Yield the regular files of an open tar file called `shard`, in order, by their headers.

    Behind the empty block that ends a tar file another one may follow (`cat a.tar b.tar`). Raises BadInputError naming
    shard and byte where a header's checksum is wrong, the file ends too early (also where only the empty block that
    marks the end is missing), or members are stored in a form that has no place of their own.
    """
    size, position, notes = os.fstat(descriptor).st_size, 0, Notes() if notes is None else notes
    extended: dict[bytes, bytes] = {}  # by GNU or PAX headers about the member that follows
    while True:
        header = os.pread(descriptor, BLOCK, position)
        if len(header) == BLOCK and not header.strip(b"\0"):
            position = _skip_zeros(descriptor, position, size)
            if position >= size:
                return
            if not _begins_member(os.pread(descriptor, BLOCK, position)):
                notes.skip("end(s) of tar files with other bytes behind", f"{shard}: {size - position} bytes")
                return
            continue
        where = f"{shard}: at byte {position}"
        if len(header) < BLOCK:
            raise BadInputError(
                f"{where}: the file ends without the empty block that ends a tar file, so it is cut off: "
                f"get it again, or append 1024 zero bytes if it is known to be whole"
            )
        _verify(header, where)
        kind, length = header[156:157], _parse_number(header[124:136], where)
        start, name = position + BLOCK, extended.get(b"path", _parse_name(header))
        if kind in REGULAR and extended.get(b"size"):
            length = int(extended[b"size"])
        if kind in WITHOUT_DATA or (kind == b"\0" and name.endswith(b"/")):
            length = 0
        if start + length > size:
            raise BadInputError(
                f"{where}: {quote(os.fsdecode(name))} has {length} bytes, and the file ends after {size - start} of "
                f"them: it is cut off or damaged, get it again"
            )
        if kind in (LONG_NAME, LONG_LINK, *PAX):
            extended |= _parse_extension(kind, _read_extension(descriptor, start, length, where), where)
        elif kind != PAX_OF_ALL:
            if kind == SPARSE or b"GNU.sparse.major" in extended or b"GNU.sparse.size" in extended:
                raise BadInputError(
                    f"{where}: {quote(os.fsdecode(name))} is stored sparsely: write it without --sparse"
                )
            if kind in REGULAR and not name.endswith(b"/"):
                yield Member(name, start, length)
            elif kind not in REGULAR and kind != DIRECTORY:
                what = "link(s) in tar files" if kind in LINKS else "special file(s) in tar files"
                notes.skip(what, os.fsdecode(name))
            extended = {}
        position = start + -(-length // BLOCK) * BLOCK


def _skip_zeros(descriptor: int, position: int, size: int) -> int:
    """Return the first block from `position` on that is not empty, or the end of the file."""
    while position < size:
        piece = os.pread(descriptor, PIECE, position)
        filled = piece.lstrip(b"\0")
        if filled or not piece:
            return position + (len(piece) - len(filled)) // BLOCK * BLOCK if piece else size
        position += len(piece)
    return size


def _begins_member(block: bytes) -> bool:
    try:
        _verify(block, "")
    except BadInputError:
        return False
    return len(block) == BLOCK


def _verify(header: bytes, where: str) -> None:
    """Check the sum of the header's bytes, its own field counted as blanks; some old tars summed signed bytes."""
    own = re.fullmatch(rb" *([0-7]+)[ \0]*", header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
    if own is None or int(own[1], 8) not in (total, signed):
        raise BadInputError(
            f"{where}: this is compressed, expected an uncompressed tar file: decompress it"
            if header.startswith(GZIP)
            else f"{where}: no tar header (its checksum is wrong), so the file is damaged or no tar file: get it again"
        )


def _parse_number(field: bytes, where: str) -> int:
    """Parse octal digits, or what GNU tar writes for larger numbers: binary, after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = re.fullmatch(rb"[ \0]*([0-7]*)[ \0]*", field)
    if digits is None:
        raise BadInputError(f"{where}: the size of a member is {quote(field)}, expected a number: the file is damaged")
    return int(digits[1] or b"0", 8)


def _parse_name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0", 1)[0], header[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _read_extension(descriptor: int, start: int, length: int, where: str) -> bytes:
    if length > LONGEST_NAME:
        raise BadInputError(f"{where}: a name of {length} bytes, expected at most {LONGEST_NAME}: the file is damaged")
    return os.pread(descriptor, length, start)


def _parse_extension(kind: bytes, content: bytes, where: str) -> dict[bytes, bytes]:
    """Parse a GNU or PAX header; PAX records are LENGTH KEY=VALUE and a line feed, all of it counted."""
    if kind == LONG_NAME:
        return {b"path": content.split(b"\0", 1)[0]}
    if kind == LONG_LINK:
        return {}
    values, place, end = dict[bytes, bytes](), 0, len(content.rstrip(b"\0"))
    while place < end:
        head = PAX_RECORD.match(content, place)
        stop = place + int(head[1]) if head else 0
        if head is None or not head.end() < stop <= len(content) or content[stop - 1 : stop] != b"\n":
            raise BadInputError(f"{where}: a PAX header that cannot be read: the file is damaged")
        values[head[2]] = content[head.end() : stop - 1]
        place = stop
    if not re.fullmatch(rb"\d{0,18}", values.get(b"size", b"")):
        raise BadInputError(f"{where}: the size of a member is {quote(values[b'size'])}, expected a number")
    return values
