"""The body of a request, read within limits; of an image that someone dropped on the page the header is checked too."""

import asyncio
import io

from PIL import Image as PillowImage
from starlette.requests import ClientDisconnect, Request

from moco.data.decoding import LONGEST_SIDE
from moco.errors import BadInputError

MOST_BYTES = 20 << 20
MOST_PIXELS = 50_000_000
NARROWEST = 100
"""Its shorter side is brought to the encoder's size: of a narrower image the longer one would take gigabytes."""
MOST_SECONDS = 10.0
"""Time that a body may take: it comes from this machine."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")


class TooLargeError(BadInputError):
    """More than is taken."""


class BrokenOffError(BadInputError):
    """Less than was announced, or not in time."""


async def read_body(request: Request, what: str, most_bytes: int) -> bytes:
    """Read the body of a request; `what` names it in messages.

    Raises TooLargeError of one that is too large (before it is read, where the request states its length), and
    BrokenOffError of one that does not come to its end.
    """
    limit = f"{most_bytes >> 20} MiB" if most_bytes >> 20 else f"{most_bytes} bytes"
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most_bytes:
        raise TooLargeError(f"the {what} has {length[:20]} bytes: expected at most {limit}")
    content = bytearray()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > most_bytes:
                    raise TooLargeError(f"the {what} has more than {limit}")
    except TimeoutError as error:
        raise BrokenOffError(f"the {what} did not come within {MOST_SECONDS:g} s: try again") from error
    except ClientDisconnect as error:
        raise BrokenOffError(f"the {what} was broken off") from error
    return bytes(content)


async def read_upload(request: Request) -> bytes:
    """Read an image file from the body of a request, and check its header; raises what both raise."""
    content = await read_body(request, "image", MOST_BYTES)
    check_header(content)
    return content


def check_header(content: bytes) -> None:
    """Raise BadInputError where the header is not that of an image, TooLargeError where it tells too many pixels."""
    try:
        with PillowImage.open(io.BytesIO(content), formats=FORMATS) as file:
            width, height = file.size
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise TooLargeError(
            f"the image is too large: expected at most {MOST_PIXELS / 1e6:.0f} million pixels"
        ) from error
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"this is not an image: expected one of {', '.join(FORMATS)}") from error
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        raise TooLargeError(
            f"the image has {width} x {height} pixels: expected at most {MOST_PIXELS / 1e6:.0f} million, and "
            f"{LONGEST_SIDE} on a side"
        )
    if max(width, height) > NARROWEST * min(width, height):
        raise TooLargeError(
            f"the image has {width} x {height} pixels: expected one side at most {NARROWEST} times the other"
        )
