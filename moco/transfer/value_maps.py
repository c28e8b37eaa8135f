"""Images that come with a second image, whose values say what the pixels show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from moco.data.decoding import check_size, too_large
from moco.data.images import PathTable
from moco.data.opening import open_regular
from moco.errors import BadInputError
from moco.transfer.headers import read_header
from moco.transfer.targets import Kind, Rules, Skeleton, Target

Values = npt.NDArray[np.int64]
Colours = Mapping[tuple[int, int, int], int]
"""What each colour (red, green, blue) means."""


@dataclass
class MappedImages:
    """The images of a split and, for each, the image of values that belongs to it."""

    paths: PathTable
    maps: PathTable
    classes: tuple[str, ...]
    rules: Rules
    kind: Kind
    read: Callable[[str, int], Target]
    """The target from a map's path and the image's number."""
    skeleton: Skeleton | None = None
    colours: Colours | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def sources(self) -> PathTable:
        """Return the files that will be read, beside the images."""
        return self.maps

    def path(self, index: int) -> str:
        """Return the image's file."""
        return self.paths.name(index)

    def image_id(self, index: int) -> int:
        """Return the image's place in the list."""
        return index

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of the map, from its header."""
        return read_header(self.maps.name(index)).size

    def values(self, index: int) -> Values:
        """Return the map (H, W)."""
        return read_values(self.maps.name(index), self.colours)

    def target(self, index: int) -> Target:
        """Return what the map says of the image."""
        return self.read(self.maps.name(index), index)


def read_values(path: str, colours: Colours | None = None) -> Values:
    """Read the values (H, W) of a palette, grey or black-and-white image, or a grey one in RGB: not its colours.

    Where `colours` give their meaning, they are read in images of colours, and in those whose palette has no other.
    """
    try:
        with open_regular(path) as file, PillowImage.open(file, formats=("PNG",)) as image:
            check_size(*image.size, path)
            image.load()
    except BadInputError:
        raise
    except PillowImage.DecompressionBombError as error:
        raise too_large(path) from error
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"{path}: cannot be read as a PNG ({error}): replace it") from error
    if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
        values = np.asarray(image)
        return (values[..., 0] if values.ndim == 3 else values).astype(np.int64).clip(0, 65535)
    if image.mode == "P":
        named = None if colours is None else _from_colours(image.convert("RGB"), colours)
        return np.asarray(image).astype(np.int64) if named is None or (named < 0).any() else named
    if colours is not None:
        named = _from_colours(image.convert("RGB"), colours)
        if (named < 0).any():
            unknown = np.asarray(image.convert("RGB"))[named < 0][0].tolist()
            raise BadInputError(
                f"{path}: a pixel of colour {unknown}, expected one of labelmap.txt: correct one of them"
            )
        return named
    channels = np.asarray(image)[..., :3].astype(np.int64)
    if image.mode in ("RGB", "RGBA") and (channels == channels[..., :1]).all():
        return np.asarray(channels[..., 0])
    raise BadInputError(
        f"{path}: colours ({image.mode}), expected a palette or grey PNG whose values are classes, or a labelmap.txt "
        f"(NAME:RED,GREEN,BLUE) that says what each colour means"
    )


def _from_colours(image: PillowImage.Image, colours: Colours) -> Values:
    """The meaning of each pixel's colour (H, W), -1 where it has none."""
    known = sorted(colours)
    codes = np.array([(red << 16) + (green << 8) + blue for red, green, blue in known])
    meanings = np.array([colours[colour] for colour in known])
    pixels = np.asarray(image).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    places = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    return np.asarray(np.where(codes[places] == pixels, meanings[places], -1))
