"""Image files on disk: only regular ones are opened, none is read without a bound, and other formats are named."""

import os
import stat
from io import BufferedReader, BytesIO

from moco.data.stalls import watch_read
from moco.errors import TOO_MANY_OPEN, BadInputError, quote

BinaryFile = BytesIO | BufferedReader


def read_limit(name: str, default: int) -> int:
    """Return the limit that the environment sets, else the default. Raises BadInputError for what is no such number."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and int(text[:19]) > 0 and len(text) < 19):
        raise BadInputError(f"{name} is {quote(text)} in the environment: expected a whole number, such as {default}")
    return int(text)


MOST_HELD_SETTING = "MOCO_MOST_BYTES"
MOST_HELD = read_limit(MOST_HELD_SETTING, 256 << 20)
"""Bytes of a file that are read into memory at once. No JPEG of the largest size that is decoded has so many."""
HEAD = 132
"""Bytes that identify a format."""
NOT_REGULAR = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
SIGNATURES = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x93NUMPY", "a numpy array"),
    (b"DDS ", "DirectDraw Surface"),
    (b"qoif", "QOI"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"II\x1a\0\0\0HEAPCCDR", "a camera's raw file"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
)
"""How files begin that are met among images and are not read."""
BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a camera's raw file"}
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""HEIC photographs and HEIF images of other codecs begin with one of these, behind the size of their first box."""


def open_regular(path: str) -> BinaryFile:
    """Open a regular file, itself or behind a link.

    Raises BadInputError naming a pipe, device, socket or folder: opening or reading it may wait for ever.
    """
    try:
        _require_regular(path, os.stat(path).st_mode)
        # without waiting, for a pipe that has taken the file's place since
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            _require_regular(path, os.fstat(descriptor).st_mode)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, BadInputError) or getattr(error, "errno", None) in TOO_MANY_OPEN:
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(f"{path}: cannot be read as an image ({reason}): remove or replace it") from error


def _require_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = NOT_REGULAR.get(stat.S_IFMT(mode), "something else")
        raise BadInputError(f"{path}: is {kind}, expected a regular file: remove it")


def read_whole(path: str, most: int = MOST_HELD) -> bytes | None:
    """Read a regular file; None where it has more than `most` bytes, of which none is read then."""
    with watch_read(path), open_regular(path) as file:
        try:
            return read_all(file, most)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror}): remove it") from error


def read_all(file: BinaryFile, most: int = MOST_HELD) -> bytes | None:
    """Read an open file from its beginning; None where it has more than `most` bytes."""
    size = file.seek(0, os.SEEK_END)  # reading `most` bytes would take memory for so many
    file.seek(0)
    return file.read(size) if size <= most else None


def is_heif(head: bytes) -> bool:
    """Tell whether a file that begins with `head` is a HEIC photograph or another HEIF image, AVIF excepted."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and b"avif" not in head[16:]


def name_format(head: bytes) -> str | None:
    """Name the format of a file that begins with `head`, where it is a known one that is not read."""
    if is_heif(head):
        return "HEIC, which needs pip install 'momentum-contrast[heic]'"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "a video (MP4 or QuickTime)")
    if head[128:132] == b"DICM":
        return "DICOM"
    return next((name for signature, name in SIGNATURES if head.startswith(signature)), None)
