"""Recognises a file or folder by its name and first bytes: an image, something else, or the system's own."""

import fnmatch
import os
import re
import unicodedata
from collections.abc import Sequence

from moco.data.decoding import HEIC_READER
from moco.data.dicom import is_dicom
from moco.data.images import EXTENSIONS
from moco.errors import BadInputError, quote


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


HEIC_EXTENSIONS = (".heic", ".heif", ".hif")
OTHER_EXTENSIONS = word_set(
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .md .rst .html .htm .pdf .doc .docx .xls .xlsx .ppt "
    ".pptx .rtf .tex .log .lst .names .data .idx .cls .label .labels .bbox .py .pyc .ipynb .sh .bat .m .r .c .h .cpp "
    ".js .css .npy .npz .mat .h5 .hdf5 .pkl .pickle .pt .pth .ckpt .safetensors .onnx .db .sqlite .lmdb .mdb .parquet "
    ".arrow .feather .tfrecord .zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .md5 .sha1 .sha256 .mp4 .mov .avi .mkv .webm "
    ".m4v .mpg .mpeg .wmv .3gp .wav .mp3 .flac .ogg .m4a .svg .eps .ps .ai .psd .xcf .blend .obj .ply .stl .glb .lnk "
    ".url .exe .dll .part .crdownload .partial .tmp .bak .orig .swp .lock .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .srw "
    ".pef .sr2 .3fr .iiq .svs .ndpi .scn .bif .vms .mrxs .aae .xmp .thm .pgw .jgw .tfw .wld .prj"
)
"""Endings of files that are never opened to see what they are; raw photographs and slides begin as TIFF files do."""
ARRAY_EXTENSIONS = (".npy", ".dcm", ".dicom")
"""Endings of files that are images only where a set has no others."""
SYSTEM_NAMES = word_set(
    "@eadir @recycle @recently-snapshot @tmp #recycle #snapshot ~snapshot $recycle.bin recycler recycled lost+found "
    "__macosx __pycache__ thumbs.db ehthumbs.db desktop.ini"
) | {"system volume information", "network trash folder", "temporary items", "icon\r"}
RESCUED = re.compile(rb"found\.\d{3}")
"""Folders of what Windows found when it repaired a disk."""
HEAD = 132
"""Bytes that identify a file's content."""
CONTENTS = (
    (rb"\xff\xd8\xff", "JPEG"), (rb"\x89PNG\r\n\x1a\n", "PNG"), (rb"GIF8[79]a", "GIF"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"), (rb"RIFF....WEBP", "WEBP"), (rb"....ftypavi[fs]", "AVIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000"), (rb"P[1-6][ \t\r\n]+[#0-9]", "PPM"),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"), (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop"), (rb"%PDF", "PDF"), (rb"%!PS", "PostScript"), (rb"PK\x03\x04|PK\x05\x06", "zip"),
    (rb"\x1f\x8b", "gzip"), (rb"BZh[1-9]1AY", "bzip2"), (rb"\xfd7zXZ\0", "xz"), (rb"\x28\xb5\x2f\xfd", "Zstandard"),
    (rb"7z\xbc\xaf\x27\x1c", "7-Zip"), (rb"Rar!\x1a\x07", "RAR"), (rb"\x93NUMPY", "NumPy"), (rb"\x89HDF", "HDF5"),
    (rb"SQLite format", "SQLite"), (rb"PAR1", "Parquet"), (rb"\x80[\x02-\x05]", "pickle"),
    (rb"....ftyp|\x1aE\xdf\xa3", "video"),
)  # fmt: skip
"""How contents begin, and what they are called; the first that fits is taken."""
ARCHIVES = frozenset({"zip", "gzip", "bzip2", "xz", "Zstandard", "7-Zip", "RAR"})
TAR_MAGIC = (257, b"ustar")
"""Where in a tar file which bytes stand, but in the oldest."""
READABLE = frozenset({"JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "BMP"})

_IMAGES = frozenset(ending.encode() for ending in (*EXTENSIONS, *(HEIC_EXTENSIONS if HEIC_READER else ())))
_HEIC = frozenset(ending.encode() for ending in HEIC_EXTENSIONS)
_ARRAYS = _IMAGES | {ending.encode() for ending in ARRAY_EXTENSIONS}
_OTHERS = frozenset(ending.encode() for ending in OTHER_EXTENSIONS)
_SYSTEM = frozenset(name.encode() for name in SYSTEM_NAMES)
_CONTENTS = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind in CONTENTS)


def is_system(name: bytes) -> bool:
    """Tell whether an operating system or a file server made this file or folder, so that it is nobody's data."""
    lower = name.lower()
    return name.startswith((b"._", b".Trash", b".trash")) or lower in _SYSTEM or RESCUED.fullmatch(lower) is not None


def has_image_ending(name: bytes, arrays: bool = False) -> bool:
    """Tell whether the name ends as an image's does, in any case; with `arrays` also as a NumPy or DICOM file's."""
    return os.path.splitext(name)[1].lower() in (_ARRAYS if arrays else _IMAGES)


def sniff(head: bytes) -> str | None:
    """Say what a file is by its first bytes; None where they are of no kind that is known."""
    return next((kind for pattern, kind in _CONTENTS if pattern.match(head)), None)


def is_readable(kind: str | None) -> bool:
    """Tell whether images of this kind can be decoded here."""
    return kind in READABLE or (kind == "HEIC" and HEIC_READER is not None)


def is_archive(kind: str | None) -> bool:
    """Tell whether files of this kind hold others, compressed."""
    return kind in ARCHIVES


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is an uncompressed tar file, by its first header."""
    with open(path, "rb") as file:
        file.seek(TAR_MAGIC[0])
        return file.read(len(TAR_MAGIC[1])) == TAR_MAGIC[1]


def read_head(path: bytes | str) -> bytes:
    """Read the first bytes of a file, without waiting where it is a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        return os.read(descriptor, HEAD)
    finally:
        os.close(descriptor)


def why_not_by_ending(name: bytes) -> str | None:
    """Say why a file is no image by the ending of its name; None where that is an image's, or nothing that is known."""
    ending = os.path.splitext(name)[1].lower()
    if ending in _IMAGES or (ending not in _OTHERS and ending not in _HEIC):
        return None
    return "HEIC (install momentum-contrast[heic])" if ending in _HEIC else ending.decode()


def why_no_image(path: bytes, name: bytes, arrays: bool = False) -> str | None:
    """Say why a regular file is no image; None where it is one. With `arrays` NumPy and DICOM files are images too.

    A name that ends as an image's does is believed: what cannot be decoded is replaced and named later. Other endings
    that are known are believed too. The rest is opened, for names may end in anything (`photo`, `x.jpg?size=large`).
    """
    if has_image_ending(name, arrays):
        return None
    reason = why_not_by_ending(name)
    if reason is not None or is_readable(kind := sniff(head := read_head(path))) or (arrays and is_dicom(head)):
        return reason
    if kind in ("HEIC", "JPEG XL"):
        return f"{kind} (install momentum-contrast[heic])" if kind == "HEIC" else kind
    ending = os.path.splitext(name)[1].lower()
    return ending.decode() if re.fullmatch(rb"\.[a-z0-9]{1,8}", ending) else "of another kind"


class Exclude:
    """The patterns of `--exclude`, which leave out files and folders by their paths below `--data`.

    A pattern without `/` fits a name anywhere, and one with `/` the whole path; `*` also fits `/`. With `arrays` NumPy
    and DICOM files are not left out.
    """

    def __init__(self, patterns: Sequence[str] = (), arrays: bool = False) -> None:
        self.patterns, self.arrays = tuple(patterns), arrays
        whole = [self._clean(pattern) for pattern in patterns]
        self._names = [re.compile(fnmatch.translate(pattern)) for pattern in whole if "/" not in pattern]
        self._paths = [re.compile(fnmatch.translate(pattern)) for pattern in whole if "/" in pattern]

    @staticmethod
    def _clean(pattern: str) -> str:
        cleaned = unicodedata.normalize("NFC", pattern.removeprefix("./").rstrip("/"))
        if not cleaned:
            raise BadInputError(f"--exclude {quote(pattern)}: expected a pattern such as 'masks' or '*_mask.png'")
        return cleaned

    def fits(self, path: bytes) -> bool:
        """Tell whether a file or folder is left out, whose folders are not."""
        if not self.patterns:
            return False
        text = unicodedata.normalize("NFC", os.fsdecode(path))
        name = text.rpartition("/")[2]
        return any(p.match(name) for p in self._names) or any(p.match(text) for p in self._paths)

    def fits_any_part(self, path: bytes) -> bool:
        """Tell whether a file or one of its folders is left out."""
        parts = path.split(b"/")
        return bool(self.patterns) and any(self.fits(b"/".join(parts[: i + 1])) for i in range(len(parts)))
