"""All channels of a file at full depth, as the library that wrote it has them."""

import io
import tarfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from moco.data.channels import Values, combine, is_deep, mask_missing, read_channels, to_channels
from moco.data.forms import Form
from moco.errors import BadInputError

RNG = np.random.default_rng(0)
FORM = Form(2, "uint16", (1.5, 2.5), (1.0, 1.0))


def numbers(kind: Any, *shape: int) -> np.ndarray:
    """Random values over the whole range of a kind of numbers."""
    if np.dtype(kind).kind == "f":
        return RNG.normal(0, 1000, shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """A file that tifffile wrote."""
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    """A file that numpy wrote."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def refused(content: bytes, *words: str) -> None:
    """Reading must fail in one line that names the file and has these words."""
    with pytest.raises(BadInputError) as caught:
        read_channels(content, "x.dat")
    text = str(caught.value)
    assert text.startswith("x.dat: ")
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("options", [{}, {"compression": "lzw", "predictor": True}, {"planarconfig": "separate"}])
def test_bands_of_a_tiff(kind: str, options: dict[str, Any]) -> None:
    """Every number as it was written, band by band, whether these lie beside or behind each other."""
    bands = numbers(kind, 5, 6, 7)
    if kind == "f8":
        options = {key: value for key, value in options.items() if key != "predictor"}
    beside = options.get("planarconfig") == "separate"
    content = tiff(bands if beside else np.moveaxis(bands, 0, -1), photometric="minisblack",
                   **{"planarconfig": "contig", **options})  # fmt: skip
    np.testing.assert_array_equal(read_channels(content, "x").array, bands)


def test_pages_of_a_tiff() -> None:
    """Pages of one size are channels; thumbnails and overviews behind them are not."""
    bands = numbers("u2", 4, 16, 16)
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for band in bands:
            file.write(band, contiguous=False)
    np.testing.assert_array_equal(read_channels(out.getvalue(), "x").array, bands)
    pages, out = [PillowImage.fromarray(band) for band in bands], io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_channels(out.getvalue(), "x").array, bands)
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(bands, subifds=1, photometric="minisblack", planarconfig="separate")
        file.write(bands[:, ::2, ::2], subfiletype=1, photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read_channels(out.getvalue(), "x").array, bands)


def test_white_that_is_0_and_palettes() -> None:
    """More is brighter, and a palette's colours are meant."""
    grey = numbers("u2", 6, 7)
    np.testing.assert_array_equal(read_channels(tiff(grey, photometric="miniswhite"), "x").array[0], 65535 - grey)
    colours = numbers("u2", 3, 256)
    index = numbers("u1", 6, 7)
    content = tiff(index, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_channels(content, "x").array, colours[:, index])


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (6, 7, 4)])
def test_png_of_16_bits(shape: tuple[int, ...]) -> None:
    """Grey and colours; Pillow alone would read the upper eight bits of these."""
    array = numbers("u2", *shape)
    wanted = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    content = bytes(imagecodecs.png_encode(array))
    np.testing.assert_array_equal(read_channels(content, "x.png", len(wanted)).array, wanted)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("asked", [None, "colours"])
def test_opacity_of_a_png_is_no_channel(colours: int, asked: str | None) -> None:
    """What is transparent lies on white, as in PNGs of 8 bits; PNG knows no other meaning of that band."""
    array = numbers("u2", 6, 7, colours + 1)
    array[0, :2, -1] = 0, 65535
    found = read_channels(bytes(imagecodecs.png_encode(array)), "x.png", colours if asked else None).array
    opacity = array[..., -1:].astype(np.float64) / 65535
    wanted = array[..., :-1] * opacity + 65535 * (1 - opacity)
    assert found.dtype == np.uint16
    assert found.shape == (colours, 6, 7)
    np.testing.assert_allclose(found, np.moveaxis(wanted, -1, 0), rtol=0, atol=0.5001)
    assert (found[:, 0, 0] == 65535).all()
    np.testing.assert_array_equal(found[:, 0, 1], array[0, 1, :-1])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<f4", "?", "<i8"])
def test_numpy(kind: str, order: Any) -> None:
    """Either axis may have the channels: the shorter one has, or the one that has as many as are asked for."""
    bands = (numbers("u2", 4, 16, 17) > 9).astype(kind)
    np.testing.assert_array_equal(read_channels(npy(np.asarray(bands, order=order)), "x").array, bands)
    last = np.moveaxis(bands, 0, -1)
    np.testing.assert_array_equal(read_channels(npy(np.asarray(last, order=order)), "x").array, bands)
    np.testing.assert_array_equal(read_channels(npy(bands[:, :3, :3]), "x", channels=4).array, bands[:, :3, :3])
    np.testing.assert_array_equal(read_channels(npy(bands[0]), "x").array[0], bands[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(np.zeros((2, 2, 2, 2))), ("shape (2, 2, 2, 2)", "expected (H, W)")),
        (npy(np.zeros((70, 80, 90), np.uint8)), ("shape (70, 80, 90)", "1 to 64 channels")),
        (npy(np.zeros((4, 0, 3))), ("shape (3, 4, 0)",)),
        (npy(np.zeros((4, 4), complex)), ("complex128", "expected whole numbers")),
        (npy(np.array([[None]])), ("Python objects",)),
        (npy(np.zeros((4, 4)))[:-1], ("not a valid NumPy array",)),
        (npy(np.zeros((4, 4))).replace(b"(4, 4)", b"(9999999, 99999)"), ("values, expected at most",)),
        (b"\x93NUMPY\1\0\x10\0" + b"__import__('os')", ("not a valid NumPy array",)),
        (
            tiff(numbers("u2", 4, 6, 7), photometric="minisblack", planarconfig="separate")[:-9],
            ("cannot be read", "16-bit unsigned integers"),
        ),
        (b"II*\0\xff\xff\xff\x7f", ("cannot be read",)),
        (b"nothing", ("cannot be read as an image",)),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: tuple[str, ...]) -> None:
    """One line, what was found and what was expected."""
    refused(content, *words)


def test_values_fit_the_set() -> None:
    """Another number of channels, or other numbers, are refused by what they are."""
    for array, words in (
        (numbers("u2", 3, 4, 4), "3 channels of uint16, expected 2 channels of uint16"),
        (numbers("f4", 2, 4, 4), "2 channels of float, expected 2 channels of uint16"),
    ):
        with pytest.raises(BadInputError, match=words):
            to_channels(read_channels(npy(array), "a/x.npy"), FORM, "a/x.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    """The place stands in the message; NaN may be said to mean nothing, infinity may not."""
    array = np.ones((1, 4, 4))
    array[0, 2, 3] = bad
    form = Form(1, "float", (7.0,), (1.0,))
    values = read_channels(npy(array), "x.npy")
    with pytest.raises(BadInputError, match=r"x.npy: 1 of 16 values are not finite .*channel 1, row 2, column 3"):
        to_channels(values, form, "x.npy")
    missing = Form(1, "float", (7.0,), (1.0,), no_data="nan")
    if np.isnan(bad):
        pixels = to_channels(values, missing, "x.npy")
        assert float(pixels[0, 2, 3]) == 7.0
        assert float(pixels.sum()) == 22.0
    else:
        with pytest.raises(BadInputError, match="not finite"):
            to_channels(values, missing, "x.npy")


@pytest.mark.parametrize(("kind", "none"), [("i2", "-9999"), ("u2", "65535"), ("f4", "-3.4028234663852886e38")])
def test_no_data_becomes_the_mean(kind: str, none: str) -> None:
    """GDAL's tag is read; an image of nothing else is refused."""
    array = np.full((2, 4, 4), 5, kind)
    array[1, :2] = np.float32(none) if kind == "f4" else int(none)
    content = tiff(array, photometric="minisblack", planarconfig="separate", extratags=[(42113, "s", 0, none, True)])
    values = read_channels(content, "x.tif")
    assert values.no_data == none
    form = Form(2, "float" if kind == "f4" else np.dtype(kind).name, (1.5, 2.5), (1.0, 1.0), no_data=none)  # type: ignore[arg-type]
    pixels = to_channels(values, form, "x.tif").numpy()
    np.testing.assert_array_equal(pixels, np.where(array == array[1, 0, 0], np.float32(2.5), array))
    empty = values._replace(array=np.full((2, 4, 4), array[1, 0, 0]))
    with pytest.raises(BadInputError, match="every value is"):
        to_channels(empty, form, "x.tif")


@pytest.mark.parametrize(
    ("kind", "none", "found"),
    [
        ("u1", "-9999", 0), ("u2", "-9999", 0), ("u2", "65536", 0), ("i2", "1e20", 0), ("u2", "0.5", 0),
        ("u2", "nan", 0), ("u2", "inf", 0), ("f2", "1e20", 0), ("f2", "-9999", 0), ("i4", "-2147483648", 1),
        ("u4", "4294967295", 1),
    ],
)  # fmt: skip
def test_no_data_that_the_type_cannot_hold(kind: str, none: str, found: int) -> None:
    """Is in no image, as GDAL's usual -9999 in unsigned ones; the largest numbers of a type are."""
    array = np.full((1, 4, 4), 5, kind)
    array[0, 0, 0] = int(none) if found else 7
    assert int(np.isnan(mask_missing(Values(array), none, "x")).sum()) == found


def test_bands_of_several_files_must_fit() -> None:
    """Those of another size are named, with both sizes."""
    parts = [read_channels(npy(numbers("u2", *shape)), "x") for shape in ((4, 6), (4, 6), (2, 3))]
    assert combine(parts[:2], ["a", "b"]).array.shape == (2, 4, 6)
    with pytest.raises(BadInputError, match=r"c: 2 x 3 pixels of uint16, expected 4 x 6 of uint16 as in a"):
        combine(parts, ["a", "b", "c"])


def picture(mode: str, form: str) -> bytes:
    """An ordinary picture."""
    out = io.BytesIO()
    PillowImage.fromarray(numbers("u1", 8, 8, 4)).convert(mode).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "deep"),
    [
        (picture("RGB", "JPEG"), False), (picture("L", "PNG"), False), (picture("RGBA", "PNG"), False),
        (picture("P", "GIF"), False), (picture("RGB", "TIFF"), False), (picture("L", "TIFF"), False),
        (imagecodecs.png_encode(numbers("u2", 6, 7)), True), (imagecodecs.png_encode(numbers("u2", 6, 7, 3)), True),
        (tiff(numbers("u2", 6, 7)), True), (tiff(numbers("f4", 6, 7)), True), (tiff(numbers("u2", 6, 7, 3)), True),
        (tiff(numbers("u1", 6, 7, 5), photometric="minisblack", planarconfig="contig"), True), (npy(np.zeros(3)), True),
    ],
)  # fmt: skip
def test_what_is_more_than_a_picture_of_bytes(content: bytes, deep: bool) -> None:
    """Photographs of every kind are not."""
    assert is_deep(content, "x") is deep


def test_pictures_are_read_band_by_band() -> None:
    """With --channels a picture of bytes has its own bands: opacity is one."""
    for mode, bands in (("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3)):
        assert len(read_channels(picture(mode, "PNG"), "x").array) == bands


def test_members_of_shards(tmp_path: Path) -> None:
    """The same files in a tar file are the same images."""
    from moco.data.catalog import load
    from moco.data.settling import Asked

    (tmp_path / "x").mkdir()
    for number in range(4):
        (tmp_path / "x" / f"{number}.tif").write_bytes(
            tiff(numbers("u2", 4, 6, 7), photometric="minisblack", planarconfig="separate")
        )
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in sorted((tmp_path / "x").iterdir()):
            tar.add(path, path.name)
    folder, shard = (load(str(tmp_path / name), form=Asked("auto"))["train"] for name in ("x", "x.tar"))
    assert folder.form == shard.form
    assert folder.form is not None
    assert folder.form.channels == 4
    assert all(bool((folder[row] == shard[row]).all()) for row in range(4))
