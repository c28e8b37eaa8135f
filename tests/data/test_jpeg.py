"""Plain JPEG photographs come out as decoding.decode gives them, or smaller; everything else is left to it."""

import io

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as PillowImage
from sklearn.datasets import load_sample_images

from moco.data.decoding import decode_bytes
from moco.data.jpeg import DECODER, SHRINKS, choose_shrink, decode_plain, read_plain_size

Pixels = npt.NDArray[np.uint8]

LARGEST = {2: 40, 4: 20, 8: 10}  # 32, 13.1 and 6.5 seen
"""Largest difference of a pixel decoded at 1/2, 1/4, 1/8 to the mean of the pixels it stands for, of 255 ..."""
MEAN = {2: 1.0, 4: 0.8, 8: 0.6}  # 0.87, 0.65 and 0.51 seen
"""... and the mean difference, over two photographs at quality 90."""

decoders = pytest.mark.parametrize("decoder", sorted({"pillow", DECODER}))


def jpeg(pixels: Pixels, **options: object) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "jpeg", **options)
    return file.getvalue()


def photographs() -> list[Pixels]:
    """Two photographs of 427x640."""
    return list(load_sample_images().images)


def upside_down() -> PillowImage.Exif:
    """The EXIF data of a picture that is to be turned."""
    exif = PillowImage.Exif()
    exif[0x0112] = 3
    return exif


SMALL = photographs()[0][100:137, 200:251]
PLAIN = {
    "4:4:4": jpeg(SMALL, subsampling=0, quality=90),
    "4:2:2": jpeg(SMALL, subsampling=1, quality=90),
    "4:2:0": jpeg(SMALL, subsampling=2, quality=50),
    "progressive": jpeg(SMALL, progressive=True),
    "restart markers": jpeg(SMALL, restart_marker_blocks=2),
    "grey": jpeg(SMALL[..., 0]),
    "RGB inside": jpeg(SMALL, keep_rgb=True),
    "one pixel": jpeg(SMALL[:1, :1]),
    "upright by its tag": jpeg(SMALL, exif=PillowImage.Exif()),
}
CMYK = np.dstack([SMALL, SMALL[..., :1]])


def encoded(image: PillowImage.Image, kind: str, **options: object) -> bytes:
    """An image file of another kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


OTHERS = {
    "png": encoded(PillowImage.fromarray(SMALL), "png"),
    "CMYK": encoded(PillowImage.fromarray(CMYK, "CMYK"), "jpeg"),
    "turned": jpeg(SMALL, exif=upside_down()),
    "several pictures": encoded(
        PillowImage.fromarray(SMALL), "mpo", save_all=True, append_images=[PillowImage.fromarray(SMALL)]
    ),
    "nothing": b"",
    "text": b"\xff\xd8\xff and no more",
}


@pytest.mark.parametrize("kind", PLAIN)
@decoders
def test_a_plain_jpeg_is_decoded_bit_for_bit_as_by_pillow(kind: str, decoder: str) -> None:
    """Sizes that fill no block, all ways of subsampling, progressive and grey."""
    content = PLAIN[kind]
    expected = decode_bytes(content, "x.jpg")
    assert read_plain_size(content) == tuple(expected.shape[1:])
    found = decode_plain(content, decoder=decoder)
    assert found is not None
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_anything_else_is_not_plain(kind: str) -> None:
    """Images.decode turns, converts or refuses it."""
    assert read_plain_size(OTHERS[kind]) is None


def test_more_pixels_than_pillow_takes_are_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is decoding.decode's, and so is the message."""
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", SMALL[..., 0].size // 2 - 1)
    assert read_plain_size(PLAIN["4:2:0"]) is None


@pytest.mark.parametrize("shrink", SHRINKS)
@decoders
def test_damaged_files_give_nothing(decoder: str, shrink: int) -> None:
    """Cut off in the middle, or not an image at all."""
    assert decode_plain(PLAIN["4:2:0"][:-200], shrink, decoder) is None
    assert decode_plain(b"nothing", shrink, decoder) is None


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("shrink", [2, 4, 8])
@decoders
def test_a_shrunken_image_has_its_size_rounded_up(kind: str, shrink: int, decoder: str) -> None:
    """Of a size that libjpeg's other scales could be taken for, a decoder may give nothing, but no other size."""
    height, width = decode_bytes(PLAIN[kind], "x.jpg").shape[1:]
    found = decode_plain(PLAIN[kind], shrink, decoder)
    if min(height, width) >= shrink:
        assert found is not None
    assert found is None or found.shape == (3, -(-height // shrink), -(-width // shrink))


def block_means(pixels: Pixels, shrink: int) -> npt.NDArray[np.float64]:
    """The mean of each full block of shrink x shrink pixels, by a plain reshape."""
    height, width = pixels.shape[0] // shrink, pixels.shape[1] // shrink
    blocks = pixels[: height * shrink, : width * shrink].reshape(height, shrink, width, shrink, 3)
    means: npt.NDArray[np.float64] = blocks.astype(np.float64).mean((1, 3))
    return means


@pytest.mark.parametrize("shrink", [2, 4, 8])
@decoders
def test_a_shrunken_photograph_is_near_the_mean_of_its_pixels(shrink: int, decoder: str) -> None:
    """Within the differences stated above."""
    for photograph in photographs():
        content = jpeg(photograph, quality=90)
        expected = block_means(decode_bytes(content, "x.jpg").permute(1, 2, 0).numpy(), shrink)
        found = decode_plain(content, shrink, decoder)
        assert found is not None
        pixels = found.permute(1, 2, 0).numpy()[: expected.shape[0], : expected.shape[1]]
        difference = np.abs(pixels - expected)
        assert difference.max() <= LARGEST[shrink]
        assert difference.mean() <= MEAN[shrink]


@pytest.mark.parametrize("view_size", [1, 32, 224])
def test_no_crop_is_enlarged_because_of_the_decoding(view_size: int) -> None:
    """The largest shrink of 1, 2, 4, 8 that leaves the shorter side a view's size; 1 where it is smaller anyway."""
    for shortest in range(1, 10 * view_size):
        allowed = [shrink for shrink in (2, 4, 8) if shortest / shrink >= view_size]
        assert choose_shrink(shortest, view_size) == max(allowed, default=1)
