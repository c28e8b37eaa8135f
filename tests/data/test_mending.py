"""Pixels that are whole are read whatever their metadata, alike by packing and training; half a picture is not."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from moco.data.decoding import decode, decode_bytes, require_header
from moco.data.jpeg import decode_plain
from moco.errors import BadInputError
from moco.shapes import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
END = b"\xff\xd9"


def written(form: str, **options: object) -> bytes:
    """The pixels as a file."""
    buffer = io.BytesIO()
    PillowImage.fromarray(PIXELS).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, damage: int = 0) -> bytes:
    """A chunk of a PNG, perhaps with a wrong checksum."""
    checksum = zlib.crc32(kind + content) ^ damage
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def insert(content: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    """Put chunks into a PNG."""
    place = content.index(before) - 4
    return content[:place] + b"".join(chunks) + content[place:]


def read_everywhere(tmp_path: Path, content: bytes) -> Image:
    """Read a file from disk and from bytes, as training does, and look at its header, as packing does."""
    path = tmp_path / "x"
    path.write_bytes(content)
    require_header(content, "x")
    image = decode(path)
    assert torch.equal(image, decode_bytes(content, "x"))
    return image


LARGE = zlib.compress(bytes(80 << 20))
METADATA = {
    "large zTXt": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "large iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "large iCCP": chunk(b"iCCP", b"profile\0\0" + LARGE),
    "text of another checksum": chunk(b"tEXt", b"Comment\0hello", 1),
    "profile of another checksum": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x"), 1),
}


@pytest.mark.parametrize("kind", METADATA)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_metadata_of_a_png_do_not_matter(tmp_path: Path, kind: str, before: bytes) -> None:
    """Texts and colour profiles that Pillow refuses, before and behind the pixels."""
    found = read_everywhere(tmp_path, insert(written("png"), METADATA[kind], before=before))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), PIXELS)


def test_a_mended_png_is_still_turned(tmp_path: Path) -> None:
    """Its orientation stands in a chunk of its own, or in a small text, beside the one that cannot be read."""
    exif = PillowImage.Exif()
    exif[274] = 6
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    for content in (written("png", exif=exif), written("png", pnginfo=info)):
        found = read_everywhere(tmp_path, insert(content, METADATA["large zTXt"]))
        assert np.array_equal(found.permute(1, 2, 0).numpy(), np.rot90(PIXELS, -1))


def test_damaged_pixels_of_a_png_are_refused() -> None:
    """Also where a text is damaged too."""
    content = insert(written("png"), METADATA["text of another checksum"])
    with pytest.raises(BadInputError, match="cannot be read"):
        decode_bytes(content[: len(content) // 2], "x.png")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
@pytest.mark.parametrize("tail", [b"", bytes(3)])
def test_a_jpeg_without_end_marker_is_read(tmp_path: Path, options: dict[str, object], tail: bytes) -> None:
    """Some cameras and copies leave it out; zeros may stand in its place."""
    content = written("jpeg", **options)
    assert content.endswith(END)
    found = read_everywhere(tmp_path, content[:-2] + tail)
    assert torch.equal(found, decode_bytes(content, "x.jpg"))
    plain = decode_plain(content[:-2] + tail)
    assert plain is None or torch.equal(plain, found)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("lost", [12, 40, 200])
def test_a_jpeg_whose_data_break_off_is_refused(options: dict[str, object], lost: int) -> None:
    """Adding the marker would fill the rest with grey."""
    content = written("jpeg", **options)
    with pytest.raises(BadInputError, match="truncated"):
        decode_bytes(content[:-lost], "x.jpg")
