"""What is dropped on the explorer: only images, and none that is too large."""

import pytest

from moco.explore.upload import MOST_BYTES
from tests.explore.explored import png
from tests.explore.test_server import client


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header tells of many pixels."""
    content = bytearray(png())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "not an image"),
        (b"GIF89a" + b"\0" * 3, 422, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "not an image"),
        (png()[:50], 422, "cannot be read"),
        (bomb(8000, 8000), 413, "million"),
        (bomb(100_000, 100_000), 413, "million"),
        (b"\0" * (MOST_BYTES + 1), 413, "20 MiB"),
    ],
    ids=["empty", "cut gif", "eps", "svg", "cut png", "64 million", "bomb", "long"],
)
def test_what_is_not_taken(content: bytes, status: int, message: str) -> None:
    """Each has an answer that says why; the encoder goes on."""
    with client() as asking:
        answer = asking.post("/neighbours", content=content)
        assert answer.status_code == status
        assert message in answer.json()["error"]
        assert asking.post("/neighbours", content=png((3, 0, 0))).status_code == 200


def test_a_long_upload_that_does_not_tell_its_length() -> None:
    """Is cut off while it comes."""
    sent = 0

    def endless() -> object:
        nonlocal sent
        while sent < 4 * MOST_BYTES:
            sent += 1 << 20
            yield b"\0" * (1 << 20)

    with client() as asking:
        assert asking.post("/neighbours", content=endless()).status_code == 413  # type: ignore[arg-type]


def test_a_line_of_pixels_is_not_taken() -> None:
    """Resized it would fill the memory: 97 kB of a PNG took 14.6 GiB."""
    with client() as asking:
        answer = asking.post("/neighbours", content=bomb(1, 49_999_999))
        assert answer.status_code == 413
        assert "300000 on a side" in answer.json()["error"]
