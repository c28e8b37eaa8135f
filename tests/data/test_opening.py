"""Files that are no pictures: nothing waits for them, none is read without a bound, and each is named by what it is."""

import base64
import functools
import importlib
import os
import socket
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.data import decoding
from moco.data.ahead import load_ahead
from moco.data.decoding import decode, limit_pixels, most_pixels
from moco.data.images import FileImages, PathTable
from moco.data.opening import name_format, read_limit, read_whole
from moco.data.photos import read_photo
from moco.data.replacement import ChosenImages
from moco.errors import BadInputError
from tests.faults.processes import start_program


def files(folder: Path, *names: str) -> FileImages:
    """A set of the files of these names."""
    return FileImages(os.fsencode(folder), PathTable(os.fsencode(name) for name in names))


def picture(path: Path) -> Path:
    """A small JPEG."""
    PillowImage.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path, "jpeg")
    return path


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket", "a folder"])
@pytest.mark.parametrize("linked", [False, True])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, linked: bool) -> None:
    """A pipe without a writer would wait for ever, and /dev/zero would never end, themselves or behind a link."""
    path = tmp_path / "x.jpg"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))  # its length is limited
    else:
        path.mkdir()
    if linked:
        (tmp_path / "y.jpg").symlink_to("x.jpg")
        path = tmp_path / "y.jpg"
    for read in (decode, lambda path: files(tmp_path, path.name).encoded(0)):
        with pytest.raises(BadInputError, match=f"{path.name}: is {kind}, expected a regular file"):
            read(path)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    """A JPEG with gigabytes of zeros behind it is decoded from disk, and its tail is never in memory."""
    path = picture(tmp_path / "x.jpg")
    expected = decode(path)
    os.truncate(path, 5 << 30)
    images = files(tmp_path, "x.jpg")
    tracemalloc.start()
    found = read_photo(ChosenImages(images, np.array([0]), 0, 0), 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.image is not None
    assert torch.equal(found.image, expected)
    assert images.encoded(0) is None
    assert peak < 10 << 20


def test_limits_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole number, the default where there is none, and one line for anything else."""
    assert read_limit("MOCO_LIMIT", 7) == 7
    for text, number in (("", 7), ("1", 1), ("123456789012", 123456789012)):
        monkeypatch.setenv("MOCO_LIMIT", text)
        assert read_limit("MOCO_LIMIT", 7) == number
    for text in ("0", "-1", "1e9", "256 MB", "9" * 400, "\u0663"):
        monkeypatch.setenv("MOCO_LIMIT", text)
        with pytest.raises(BadInputError, match=r"MOCO_LIMIT is .* expected a whole number, such as 7"):
            read_limit("MOCO_LIMIT", 7)


def decode_with(most: str, path: Path) -> None:
    """Print the shape of an image that a program reads with a setting."""
    os.environ["MOCO_MOST_PIXELS"] = most
    print(importlib.reload(decoding).decode(path).shape)


def test_the_most_pixels_are_a_setting(tmp_path: Path) -> None:
    """MOCO_MOST_PIXELS lets larger images in, or refuses smaller ones from their header."""
    path = picture(tmp_path / "x.jpg")
    for most, said in (("99", "x.jpg: more than 99 pixels"), ("100", "torch.Size([3, 10, 10])")):
        training = start_program(functools.partial(decode_with, most, path), tmp_path, ranks=1)
        assert training.exit_codes() == [int(most == "99")]
        assert said in training.text()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:.*take much time")
def test_the_most_pixels_are_a_flag(tmp_path: Path) -> None:
    """Exact, for plain JPEGs and others, up to twice the limit and beyond; the default holds again afterwards."""
    for name in ("x.jpg", "x.png"):
        images, path = files(tmp_path, name), picture(tmp_path / name)
        for most in (100, 1000):
            with limit_pixels(most):
                assert decode(path).shape == (3, 10, 10)
                assert read_photo(choose(images), 0).size == (10, 10)
        for most in (1, 50, 51, 99):
            with limit_pixels(most), pytest.raises(BadInputError, match=f"more than {most} pixels.*--most-pixels"):
                decode(path)
            with limit_pixels(most), pytest.raises(BadInputError, match="--most-pixels"):
                read_photo(choose(images), 0)
    assert decode(path).shape == (3, 10, 10)


def choose(images: FileImages) -> ChosenImages:
    """The only image of a set, without others in its place."""
    return ChosenImages(images, np.array([0]), 0, 0, stand_ins=False)


def tell_most(_: int) -> int:
    """Tell what holds in a loading process."""
    return most_pixels()


def test_loading_processes_have_the_limit() -> None:
    """It is handed to them."""
    with limit_pixels(77):
        assert list(load_ahead(tell_most, [0], 1)) == [77]


def test_the_bound_is_exact(tmp_path: Path) -> None:
    """As many bytes as are allowed are read."""
    (tmp_path / "x").write_bytes(b"12345")
    assert read_whole(str(tmp_path / "x"), 5) == b"12345"
    assert read_whole(str(tmp_path / "x"), 4) is None


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, head: bytes, name: str) -> None:
    """Whatever the file is called, the message says what it is."""
    path = tmp_path / "x.jpg"
    path.write_bytes(head + bytes(200))
    assert name in str(name_format(path.read_bytes()))
    with pytest.raises(BadInputError, match=f"x.jpg: cannot be read as an image .*{name}"):
        decode(path)


HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<00042ZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=I"
    "V*mgE07O6l0RRC200001dH?|c000000015U001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002i"
    "X>f9I0002DX>en20001ZXm(>m0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDD?$MQ"
    "18@KU0|1Z!00RI30{|YNAb|yz>PacCZUPz%2mk;B0LTCU0{{p>VgLaE2SfqEa<C#m0000JV{dG7ZewhC0096E00w{n000zeb8uw<"
    "00000002M$002M$000nhX?SS>000032nYxO000+haBX1#00000000310R({p0|Wp7048l@VRQfh02(L(uLd|;{QWoEjsO4l+{dB)"
    "x5TRP36Iy{"
)
"""64 x 64 pixels of (200, 100, 0), written by pillow-heif 1.8."""


def test_a_photograph_of_a_phone_is_read_with_an_extra(tmp_path: Path) -> None:
    """Whatever it is called; the extra's library may be missing where this is tested."""
    pytest.importorskip("pi_heif")
    (tmp_path / "x.jpg").write_bytes(HEIC)
    image = decode(tmp_path / "x.jpg")
    assert image.shape == (3, 64, 64)
    assert (image.int() - torch.tensor([200, 100, 0]).view(3, 1, 1)).abs().max() <= 3


def test_a_photograph_of_a_phone_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it."""
    monkeypatch.setattr(decoding, "HEIC_READER", None)
    (tmp_path / "x.jpg").write_bytes(HEIC)
    with pytest.raises(BadInputError, match=r"pip install 'momentum-contrast\[heic\]'"):
        decode(tmp_path / "x.jpg")
