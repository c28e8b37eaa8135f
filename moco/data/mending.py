"""Repairs image files that have all their pixels but damaged PNG metadata or no JPEG end marker."""

import io
import zlib
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from PIL import Image as PillowImage

from moco.data.opening import BinaryFile, read_all

PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
DROPPED = (*TEXTS, b"iCCP")
"""Chunks that change no pixel here: texts and colour profiles."""
ORIENTING = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Texts that may say how to turn the picture, which are kept while small."""
SMALL_TEXT = 1 << 16
JPEG, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
FILLING = bytes.fromhex("5a3c96e1") * 64
"""Bytes that decode to something where a JPEG's data break off, and to nothing behind their end."""


def mend(file: BinaryFile) -> bytes | None:
    """Return the file without what cannot be read and changes no pixel; None where there is nothing of the kind."""
    with suppress(OSError):
        content = read_all(file)
        if content is None:
            return None
        if content.startswith(PNG):
            return _drop_metadata(content)
        if content.startswith(JPEG):
            return _end_jpeg(content)
    return None


def _drop_metadata(content: bytes) -> bytes | None:
    kept = b"".join([PNG, *(chunk for chunk in _chunks(content) if not _is_dropped(chunk))])
    return kept if len(kept) < len(content) else None


def _chunks(content: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG, each with length, kind and checksum; the last may be cut off."""
    place = len(PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        yield content[place:end]
        place = end


def _is_dropped(chunk: bytes) -> bool:
    kind, text = chunk[4:8], chunk[8:]
    return kind in DROPPED and not (len(chunk) < SMALL_TEXT and text.startswith(ORIENTING) and _is_sound(chunk))


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _end_jpeg(content: bytes) -> bytes | None:
    """Add the end marker, if all data of the picture are there: then further data in front of it change nothing."""
    stripped = content.rstrip(b"\0")
    if stripped.endswith(JPEG_END):
        return None
    pictures = [_decode(content + filling + JPEG_END) for filling in (b"", FILLING)]
    whole = pictures[0] is not None and pictures[1] is not None and np.array_equal(pictures[0], pictures[1])
    return content + JPEG_END if whole else None


def _decode(content: bytes) -> np.ndarray | None:
    with suppress(Exception), PillowImage.open(io.BytesIO(content), formats=("JPEG",)) as file:
        return np.array(file)
    return None
