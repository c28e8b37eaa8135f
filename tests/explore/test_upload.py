"""What is dropped on the explorer: only images, and none that is too large."""

import contextlib
import dataclasses
import urllib.error
import urllib.request

import pytest

from moco.explore.server import WAITING_UPLOADS
from moco.explore.upload import MOST_BYTES
from tests.explore.explored import collection, png
from tests.explore.served import TOKEN, served, status, upload
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
        (bomb(1, 49_999_999), 413, "300000 on a side"),
        (bomb(30_000, 100), 413, "at most 100 times the other"),
        (b"\0" * (MOST_BYTES + 1), 413, "20 MiB"),
    ],
    ids=["empty", "cut gif", "eps", "svg", "cut png", "64 million", "bomb", "narrow", "low", "long"],
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


def test_uploads_that_stall_or_break_off(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """More of them than may wait are dropped after seconds, without a traceback, and then the next is answered."""
    monkeypatch.setattr("moco.explore.upload.MOST_SECONDS", 0.5)
    image = png((3, 0, 0))
    with served(collection()) as port:
        with contextlib.ExitStack() as stack:
            stalled = [stack.enter_context(upload(port, image[:9], len(image))) for _ in range(WAITING_UPLOADS)]
            assert [status(asking) for asking in stalled] == [408] * WAITING_UPLOADS
        for _ in range(2 * WAITING_UPLOADS):
            with upload(port, image[:9], len(image)):
                pass
        with upload(port, image, len(image)) as asking:
            assert status(asking) in (200, 503)  # those that broke off may still wait
        with upload(port, b"", 10 << 30) as asking:
            assert status(asking) == 413  # before a byte of it came
    assert "Traceback" not in capfd.readouterr().err


def test_a_failure_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A set whose folder is gone fails as its kind of files fails; what nobody foresaw is an answer and one line."""

    def gone(row: int) -> bytes:
        raise FileNotFoundError(2, "No such file or directory") if row else ZeroDivisionError("unforeseen\nfailure")

    with served(dataclasses.replace(collection(), thumbnail=gone)) as port:
        for row, expected in ((1, 404), (0, 500)):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/thumbnail/{row}", headers={"X-Moco-Token": TOKEN}
            )
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(request, timeout=30)
            assert error.value.code == expected
            error.value.close()
    said = capfd.readouterr().err
    assert said == "moco explore: GET /thumbnail/0 failed: ZeroDivisionError: unforeseen failure\n"


def test_a_line_of_pixels_is_not_taken() -> None:
    """Resized it would fill the memory: 97 kB of a PNG took 14.6 GiB."""
    with client() as asking:
        answer = asking.post("/neighbours", content=bomb(1, 49_999_999))
        assert answer.status_code == 413
        assert "300000 on a side" in answer.json()["error"]
