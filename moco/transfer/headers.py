"""What an image file says of itself before its pixels."""

import os
from dataclasses import dataclass

from PIL import Image as PillowImage

from moco.data.decoding import use_file
from moco.errors import BadInputError

ORIENTATION = 0x0112
"""EXIF's tag of how an image is to be turned."""
FIRST_TURNED = 5
"""From this value on height and width change places."""


@dataclass(frozen=True)
class Header:
    """The size (H, W) of an image upright by its EXIF tag, and that tag (1: as it is)."""

    size: tuple[int, int]
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Return the size without that tag."""
        return self.size[::-1] if self.orientation >= FIRST_TURNED else self.size


def read_header(path: str) -> Header:
    """Read an image's header. Raises BadInputError where it cannot be read, or is no regular file."""
    if not os.path.isfile(path):
        raise BadInputError(f"{path}: no such file, or not a regular file: remove or replace it")
    width, height, orientation = use_file(path, _look)
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return Header((width, height) if orientation >= FIRST_TURNED else (height, width), orientation)


def _look(image: PillowImage.Image, name: str) -> tuple[int, int, object]:
    return *image.size, image.getexif().get(ORIENTATION, 1)
