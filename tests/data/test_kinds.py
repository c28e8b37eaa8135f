"""What is an image by its name and content, what the system made, and what a pattern leaves out."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from moco.data import kinds
from moco.data.kinds import Exclude, has_image_ending, is_readable, is_system, sniff, why_no_image
from moco.errors import BadInputError

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def written(form: str) -> bytes:
    """A small image that Pillow writes."""
    buffer = io.BytesIO()
    PillowImage.new("RGB", (4, 3), "red").save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "DIB"])
def test_contents_are_known(form: str, tmp_path: Path) -> None:
    """Whatever Pillow writes is an image without an ending, with a query behind it, and with one that nobody knows."""
    kind = sniff(written(form))
    assert kind == {"MPO": "JPEG"}.get(form, form)
    assert is_readable(kind)
    for name in ("photo", "x.jpg?size=large", "x.image"):
        (tmp_path / name).write_bytes(written(form))
        assert why_no_image(os.fsencode(tmp_path / name), name.encode()) is None


def test_pillow_s_own_endings_are_known() -> None:
    """Every ending under which Pillow reads a format that is read here."""
    PillowImage.init()
    for ending, form in PillowImage.registered_extensions().items():
        if form in FORMATS and ending not in (".pfm", ".icb", ".dib"):
            assert has_image_ending(b"x" + ending.encode()), ending
            assert has_image_ending(b"x" + ending.upper().encode()), ending


@pytest.mark.parametrize(
    ("name", "reason"), [("a.txt", ".txt"), ("a.CSV", ".csv"), ("a.jxl", ".jxl"), ("a", "of another kind")]
)
def test_the_reason_is_the_ending(tmp_path: Path, name: str, reason: str) -> None:
    """Or the content, where there is no ending."""
    (tmp_path / name).write_bytes(b"nothing that is known")
    assert why_no_image(os.fsencode(tmp_path / name), name.encode()) == reason


def test_photographs_without_a_reader_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC by its ending and by its content."""
    monkeypatch.setattr(kinds, "HEIC_READER", None)
    monkeypatch.setattr(kinds, "_IMAGES", kinds._IMAGES - kinds._HEIC)
    (tmp_path / "a").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    for path, name in ((tmp_path / "a", b"a"), (tmp_path / "b.HEIC", b"b.HEIC")):
        assert "momentum-contrast[heic]" in str(why_no_image(os.fsencode(path), name))


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "$RECYCLE.BIN",
        "lost+found",
        ".Trash-1000",
        "__MACOSX",
        "._1.jpg",
        "Thumbs.db",
        "#recycle",
        "RECYCLED",
        "~snapshot",
        "@tmp",
        "Network Trash Folder",
        "Temporary Items",
        "found.012",
    ],
)
def test_names_of_systems(name: str) -> None:
    """Of file servers, Windows, macOS and Linux."""
    assert is_system(name.encode())
    assert not is_system(b"x" + name.encode())


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("masks", "a/masks", True), ("masks", "masks.jpg", False), ("*_mask.png", "a/b/1_mask.png", True),
        ("a/*", "a/b/1.png", True), ("a/*", "b/a/1.png", False), ("*/test", "cat/test", True), ("./a/", "a", True),
        ("caf\u00e9", "cafe\u0301", True), ("?.png", "\u00e9.png", True), ("A", "a", False),
    ],
)  # fmt: skip
def test_patterns(pattern: str, path: str, fits: bool) -> None:
    """A name fits anywhere, a path as a whole; letters may be composed either way."""
    assert Exclude([pattern]).fits(path.encode()) == fits
    if fits:
        assert Exclude([pattern]).fits_any_part(path.encode() + b"/x/y.jpg")


def test_an_empty_pattern_is_refused() -> None:
    """It would fit nothing."""
    with pytest.raises(BadInputError, match="--exclude"):
        Exclude(["./"])
