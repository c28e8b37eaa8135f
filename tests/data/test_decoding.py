"""Every kind of image file becomes upright RGB bytes or one clear refusal."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as PillowImage

from moco.data.decoding import decode, decode_bytes, require_header
from moco.errors import BadInputError

Bytes = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 5, 7


def noise(*shape: int) -> Bytes:
    """Reproducible random bytes."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(folder: Path, name: str, pixels: npt.NDArray[np.generic], **options: Any) -> Path:
    """Write pixels with Pillow; the ending of the name says how."""
    PillowImage.fromarray(pixels).save(folder / name, **options)
    return folder / name


def tiff(path: Path, pixels: npt.NDArray[np.generic], *, photometric: int, extra: tuple[int, ...] = ()) -> Path:
    """Write (H, W, bands) pixels as an uncompressed little-endian TIFF by hand: Pillow writes no odd bands."""
    height, width, bands = pixels.shape
    sample_format = 3 if pixels.dtype.kind == "f" else 1
    short = {  # tag: values of 16 bits
        256: (width,), 257: (height,), 258: (8 * pixels.itemsize,) * bands, 259: (1,), 262: (photometric,),
        277: (bands,), 278: (height,), 284: (1,), 338: extra, 339: (sample_format,) * bands,
    }  # fmt: skip
    tags = {tag: (3, len(values), struct.pack(f"<{len(values)}H", *values)) for tag, values in short.items() if values}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags[273], tags[279] = (4, 1, b""), (4, 1, struct.pack("<I", pixels.nbytes))
    offset = start + sum(len(value) for _, _, value in tags.values() if len(value) > 4)
    tags[273] = (4, 1, struct.pack("<I", offset))
    directory, values_of_many_bytes = struct.pack("<H", len(tags)), b""
    for tag, (kind, count, value) in sorted(tags.items()):
        if len(value) > 4:
            directory += struct.pack("<HHII", tag, kind, count, start + len(values_of_many_bytes))
            values_of_many_bytes += value
        else:
            directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<I", 8)
    path.write_bytes(header + directory + struct.pack("<I", 0) + values_of_many_bytes + pixels.tobytes())
    return path


def check_decodes(path: Path, expected: npt.NDArray[np.generic]) -> None:
    """`decode` must give exactly `expected`, (H, W, 3)."""
    found = decode(path)
    assert found.dtype == torch.uint8
    assert found.shape == (3, *expected.shape[:2])
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def check_refused(path: Path, *parts: str) -> None:
    """`decode` must say which file, and each of `parts`, in one line."""
    with pytest.raises(BadInputError) as caught:
        decode(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- what can be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm"])
def test_rgb_comes_as_it_is(tmp_path: Path, ending: str) -> None:
    """Formats without loss give the very bytes."""
    pixels = noise(HEIGHT, WIDTH, 3)
    check_decodes(saved(tmp_path, f"x.{ending}", pixels), pixels)


@pytest.mark.parametrize("kind", [os.fsencode, str, Path])
def test_a_path_may_be_bytes_text_or_path(tmp_path: Path, kind: Callable[[Path], bytes | str | Path]) -> None:
    """All three name the same file."""
    pixels = noise(HEIGHT, WIDTH, 3)
    path = saved(tmp_path, "x.png", pixels)
    assert torch.equal(decode(kind(path)).permute(1, 2, 0), torch.from_numpy(pixels))


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    """Eight bits of grey are copied to every colour."""
    grey = noise(HEIGHT, WIDTH)
    check_decodes(saved(tmp_path, "x.png", grey), np.stack([grey] * 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    """One bit is 0 or 255."""
    bits = noise(HEIGHT, WIDTH) > 127
    check_decodes(saved(tmp_path, "x.png", bits), np.stack([np.where(bits, 255, 0)] * 3, axis=2))


def palette_image(indices: Bytes, colours: Bytes) -> PillowImage.Image:
    """An image of palette indices."""
    image = PillowImage.fromarray(indices).convert("L")
    image.putpalette(colours.tobytes())
    return image


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    """An index is looked up."""
    indices, colours = noise(HEIGHT, WIDTH) % 16, noise(16, 3)
    palette_image(indices, colours).save(tmp_path / "x.png")
    check_decodes(tmp_path / "x.png", colours[indices])


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_transparent_palette_colour_lies_on_white(tmp_path: Path, ending: str) -> None:
    """The index that stands for transparency becomes white."""
    indices, colours = noise(HEIGHT, WIDTH) % 16, noise(16, 3)
    palette_image(indices, colours).save(tmp_path / f"x.{ending}", transparency=3)
    colours[3] = 255
    assert (indices == 3).any()
    check_decodes(tmp_path / f"x.{ending}", colours[indices])


def test_half_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    """A palette with an opacity for each colour is blended with white."""
    indices, colours = np.arange(4, dtype=np.uint8).reshape(2, 2), np.zeros((4, 3), np.uint8)
    palette_image(indices, colours).save(tmp_path / "x.png", transparency=bytes([255, 0, 51, 204]))
    found = decode(tmp_path / "x.png")
    assert found[0].flatten().tolist() == [0, 255, 204, 51]  # black on white: 255 - opacity


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_rgba_lies_on_white(tmp_path: Path, ending: str) -> None:
    """Opaque pixels keep their colour, transparent ones are white whatever their hidden colour, others are mixed."""
    opacity = np.array([[255, 0, 102]], np.uint8)
    rgba = np.dstack([np.full((1, 3, 3), (200, 100, 0), np.uint8), opacity])
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    # 102/255 = 0.4 of the colour and 0.6 of white: 233, 193, 153
    check_decodes(
        saved(tmp_path, f"x.{ending}", rgba, **options), np.array([[[200, 100, 0], [255] * 3, [233, 193, 153]]])
    )


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_with_opacity_lies_on_white(tmp_path: Path, ending: str) -> None:
    """As RGBA."""
    image = PillowImage.merge("LA", [PillowImage.fromarray(np.array([row], np.uint8)) for row in ([9, 9], [255, 0])])
    image.save(tmp_path / f"x.{ending}")
    check_decodes(tmp_path / f"x.{ending}", np.array([[[9] * 3, [255] * 3]]))


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_a_colour_declared_transparent_lies_on_white(tmp_path: Path, mode: str) -> None:
    """PNG may declare one colour transparent (here black) instead of storing an opacity (tRNS)."""
    grey = np.array([[0, 255]], np.uint8)
    pixels: dict[str, npt.NDArray[np.generic]] = {
        "1": grey > 0,
        "L": grey,
        "I;16": grey.astype(np.uint16) * 257,
        "RGB": np.dstack([grey, grey, grey]),
    }
    path = saved(tmp_path, "x.png", pixels[mode], transparency=(0, 0, 0) if mode == "RGB" else 0)
    with PillowImage.open(path) as file:
        assert (file.mode, "transparency" in file.info) == (mode, True)
    check_decodes(path, np.full((1, 2, 3), 255))


def test_cmyk_jpeg_is_converted(tmp_path: Path) -> None:
    """Ink of 0, 255, 255, 0 is red; JPEG may change each colour a little."""
    PillowImage.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    found = decode(tmp_path / "x.jpg")
    assert (found - torch.tensor([255, 0, 0]).view(3, 1, 1)).abs().max() <= 3


SIXTEEN_BITS = np.array([[0, 127, 128, 129, 256, 257], [30000, 32767, 32768, 65407, 65408, 65535]], np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, ending: str) -> None:
    """Grey of 16 bits is v * 255 / 65535, rounded (v / 257 is never half-way between integers)."""
    expected = np.rint(SIXTEEN_BITS * (255 / 65535)).astype(np.uint8)
    assert expected[0].tolist() == [0, 0, 0, 1, 1, 1]
    check_decodes(saved(tmp_path, f"x.{ending}", SIXTEEN_BITS), np.stack([expected] * 3, axis=2))


def test_big_endian_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    """The order of the bytes makes no difference."""
    path = saved(tmp_path, "x.tif", SIXTEEN_BITS.astype(">u2"))
    assert path.read_bytes()[:2] == b"MM"
    expected = np.rint(SIXTEEN_BITS * (255 / 65535)).astype(np.uint8)
    check_decodes(path, np.stack([expected] * 3, axis=2))


def test_sixteen_bits_of_each_colour_are_scaled_to_eight(tmp_path: Path) -> None:
    """Pillow keeps the high byte of colours, which is at most one step below the rounded value."""
    pixels = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    found = decode(tiff(tmp_path / "x.tif", pixels, photometric=2)).permute(1, 2, 0).numpy()
    assert np.abs(found - np.rint(pixels * (255 / 65535))).max() <= 1


def stored(upright: Bytes, orientation: int) -> Bytes:
    """How a camera stores an upright image (H, W, 3) under an EXIF orientation (EXIF 2.3, tag 274)."""
    views: dict[int, Bytes] = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),  # row 0 is the left side, column 0 the top
        6: np.rot90(upright),  # row 0 is the right side, column 0 the top
        7: upright[::-1, ::-1].swapaxes(0, 1),  # row 0 is the right side, column 0 the bottom
        8: np.rot90(upright, -1),  # row 0 is the left side, column 0 the bottom
    }
    return np.ascontiguousarray(views[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("ending", "tolerance"), [("png", 0), ("jpg", 3)])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, ending: str, tolerance: int) -> None:
    """Images stand upright; JPEG may change 16x16 blocks of one colour by the rounding of its coefficients."""
    upright = np.kron(noise(2, 3, 1), np.ones((16, 16, 3), np.uint8))
    exif = PillowImage.Exif()
    exif[274] = orientation
    path = saved(tmp_path, f"x.{ending}", stored(upright, orientation), exif=exif, quality=100)
    found = decode(path).permute(1, 2, 0).numpy()
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= tolerance


def test_animated_gif_gives_its_first_frame(tmp_path: Path) -> None:
    """Later frames are passed over."""
    frames = [PillowImage.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    check_decodes(tmp_path / "x.gif", np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8))


def test_the_tiff_writer_of_these_tests_is_sound(tmp_path: Path) -> None:
    """Three bands, and four of which one is opacity, are read: what is refused below is refused for its bands."""
    rgb = noise(HEIGHT, WIDTH, 3)
    check_decodes(tiff(tmp_path / "rgb.tif", rgb, photometric=2), rgb)
    opaque = np.dstack([rgb, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    check_decodes(tiff(tmp_path / "rgba.tif", opaque, photometric=2, extra=(2,)), rgb)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_fourth_band_that_is_not_opacity_is_refused(tmp_path: Path) -> None:
    """Such as near infrared, which Pillow would drop or take for opacity."""
    check_refused(tiff(tmp_path / "x.tif", noise(HEIGHT, WIDTH, 4), photometric=2, extra=(0,)), "4 bands", "RGB")


def test_a_second_band_that_is_not_opacity_is_refused(tmp_path: Path) -> None:
    """The same for grey images."""
    check_refused(tiff(tmp_path / "x.tif", noise(HEIGHT, WIDTH, 2), photometric=1, extra=(0,)), "2 bands")


@pytest.mark.parametrize(("photometric", "extra"), [(2, (0, 0)), (2, (2, 0)), (5, (0,))])
def test_five_bands_are_refused(tmp_path: Path, photometric: int, extra: tuple[int, ...]) -> None:
    """Also where one of them is opacity, or four of them are inks."""
    check_refused(tiff(tmp_path / "x.tif", noise(HEIGHT, WIDTH, 5), photometric=photometric, extra=extra), "5 bands")


@pytest.mark.parametrize("bands", [1, 3])
def test_floating_point_tiff_is_refused(tmp_path: Path, bands: int) -> None:
    """Nobody knows what is black and white in it."""
    pixels = noise(HEIGHT, WIDTH, bands).astype(np.float32)
    check_refused(tiff(tmp_path / "x.tif", pixels, photometric=1 if bands == 1 else 2))


def test_more_than_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """The range is named."""
    check_refused(saved(tmp_path, "x.tif", np.array([[0, 70000]], np.int32)), "0 to 70000", "16 bits")


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str) -> None:
    """Half a file is not half an image."""
    path = saved(tmp_path, f"x.{ending}", noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_refused(path, "remove or replace it")


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", b"\xff\xd8\xff", bytes(4096)]
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file, an error page under an image's name, a lone signature, zeros."""
    (tmp_path / "x.jpg").write_bytes(content)
    check_refused(tmp_path / "x.jpg", "remove or replace it")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xd8\xff", bytes(4096)])
def test_bytes_are_refused_in_the_words_of_their_file(tmp_path: Path, content: bytes) -> None:
    """Without an address in memory: a run's log must say the same in every process, and after resuming."""
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BadInputError) as of_file:
        decode(path)
    for refuse in (decode_bytes, require_header):
        with pytest.raises(BadInputError) as of_bytes:
            refuse(content, str(path))
        assert str(of_bytes.value) == str(of_file.value)


def test_a_header_says_nothing_of_the_pixels(tmp_path: Path) -> None:
    """`require_header` reads no further: half a picture passes."""
    content = saved(tmp_path, "x.jpg", noise(64, 64, 3)).read_bytes()
    require_header(content[: len(content) // 2], "x.jpg")
    with pytest.raises(BadInputError):
        require_header(content[:20], "x.jpg")


@pytest.mark.parametrize("ending", ["jpg", "png", "eps"])
def test_no_other_program_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Pillow gives PostScript to Ghostscript, whatever the file is called; here that is one that leaves a trace."""
    program, trace = tmp_path / "gs", tmp_path / "trace"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = tmp_path / f"x.{ending}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n%%EOF\n")
    with suppress(OSError), PillowImage.open(path) as file:
        file.load()
    assert trace.exists(), "Pillow does call it, so that this test says something"
    trace.unlink()
    check_refused(path, "remove or replace it")
    assert not trace.exists()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """It may be deleted while a run goes on."""
    check_refused(tmp_path / "x.jpg")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and then holds a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    """A few bytes that claim gigabytes are not believed, and no memory is taken for them."""
    path = tmp_path / "x.png"
    path.write_bytes(png_header(side, side))
    tracemalloc.start()
    check_refused(path, "more than 178956970 pixels", "--most-pixels")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_line_of_pixels_is_refused_from_its_header(tmp_path: Path) -> None:
    """Few pixels, but of which a small square would be made by way of gigabytes."""
    (tmp_path / "x.png").write_bytes(png_header(1, 49_999_999))
    check_refused(tmp_path / "x.png", "1 x 49999999 pixels", "300000")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_picture_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns without a name; two pictures are two warnings, however often they are read."""
    paths = [saved(tmp_path, name, noise(30, 30, 3)) for name in ("x.png", "y.png")]
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 899)
    for path in paths:
        with pytest.warns(UserWarning, match=f"{path.name}: 30 x 30 pixels"):
            decode(path)
        decode(path)
