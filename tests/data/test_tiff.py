"""TIFFs of many bands and other numbers are read right, or refused by what they are."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from moco.data.decoding import decode
from moco.errors import BadInputError
from tests.data.test_decoding import check_decodes, check_refused, noise, saved, tiff


@pytest.mark.parametrize("extra", [1, 2])
def test_a_fourth_band_that_looks_like_a_picture_is_no_opacity(tmp_path: Path, extra: int) -> None:
    """Near infra-red that a program tagged as opacity: its pixels lie between 0 and 255."""
    bands = noise(8, 9, 4) // 2 + 50
    check_refused(tiff(tmp_path / "x.tif", bands, photometric=2, extra=(extra,)), "4 bands", "opacity")


def test_a_second_band_that_looks_like_a_picture_is_no_opacity(tmp_path: Path) -> None:
    """The same for grey."""
    bands = noise(8, 9, 2) // 2 + 50
    check_refused(tiff(tmp_path / "x.tif", bands, photometric=1, extra=(2,)), "2 bands", "opacity")


def test_a_mask_is_opacity(tmp_path: Path) -> None:
    """A cut-out object lies on white, as ever."""
    rgb, mask = noise(8, 9, 3), np.where(noise(8, 9) > 99, 255, 0).astype(np.uint8)
    path = tiff(tmp_path / "x.tif", np.dstack([rgb, mask]), photometric=2, extra=(2,))
    check_decodes(path, np.where(mask[..., None] > 0, rgb, 255))


@pytest.mark.parametrize(
    ("dtype", "bands", "words"),
    [
        (np.uint16, 13, "13 bands of 16-bit unsigned integers"),
        (np.uint8, 13, "13 bands of 8-bit unsigned integers"),
        (np.uint16, 3, "3 bands of 16-bit unsigned integers that are not marked as RGB"),
        (np.uint8, 3, "3 bands of 8-bit unsigned integers that are not marked as RGB"),
        (np.float32, 3, "3 bands of 32-bit floating point"),
        (np.float16, 1, "1 band of 16-bit floating point"),
        (np.float64, 1, "1 band of 64-bit floating point"),
        (np.float32, 1, "1 band of 32-bit floating point"),
    ],
)
def test_what_cannot_be_shown_as_rgb_is_named(tmp_path: Path, dtype: type, bands: int, words: str) -> None:
    """Bands and numbers stand in the message: a person knows then what to convert."""
    check_refused(tiff(tmp_path / "x.tif", noise(8, 9, bands).astype(dtype), photometric=1), words)


def test_unsigned_32_bits_are_not_negative(tmp_path: Path) -> None:
    """Pillow reads them as signed."""
    pixels = np.array([[[0], [3_000_000_000]]], np.uint32)
    check_refused(tiff(tmp_path / "x.tif", pixels, photometric=1), "32-bit unsigned integers, values 0 to 3000000000")


def test_negative_values_are_called_signed(tmp_path: Path) -> None:
    """What a scanner of bodies writes."""
    check_refused(saved(tmp_path, "x.tif", np.array([[-92, 140]], np.int32)), "signed integers, values -92 to 140")


def test_damaged_tags_are_no_traceback(tmp_path: Path) -> None:
    """Whatever byte is another, the file is read or refused."""
    content, read = tiff(tmp_path / "x.tif", noise(4, 5, 3), photometric=1).read_bytes(), 0
    for place in range(4, 120):
        (tmp_path / "x.tif").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        with suppress(BadInputError):
            decode(tmp_path / "x.tif")
            read += 1
    assert 0 < read < 116


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    """Pillow takes -1 for 255."""
    path = tiff(tmp_path / "x.tif", noise(4, 5, 1), photometric=1)
    content = path.read_bytes()
    format_is_unsigned, signed = (struct.pack("<HHIHH", 339, 3, 1, value, 0) for value in (1, 2))
    assert format_is_unsigned in content
    path.write_bytes(content.replace(format_is_unsigned, signed))
    check_refused(path, "8-bit signed integers")


def test_sixteen_bits_in_which_zero_is_white_are_refused(tmp_path: Path) -> None:
    """Pillow turns eight bits around and leaves sixteen, a negative."""
    grey = noise(4, 5, 1)
    check_refused(tiff(tmp_path / "x.tif", grey.astype(np.uint16), photometric=0), "0 is white")
    check_decodes(tiff(tmp_path / "y.tif", grey, photometric=0), np.repeat(255 - grey, 3, 2))
