"""Images that come with a second image, whose values say what the pixels show."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.transfer.targets import Kind, Rules, Skeleton, Target
from moco.transfer.voc import size_of

Values = npt.NDArray[np.int64]


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

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def sources(self) -> PathTable:
        """The files that will be read, beside the images."""
        return self.maps

    def path(self, index: int) -> str:
        """The image's file."""
        return self.paths.name(index)

    def image_id(self, index: int) -> int:
        """The image's place in the list."""
        return index

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the map, from its header."""
        return size_of(self.maps.name(index))

    def values(self, index: int) -> Values:
        """The map (H, W)."""
        return read_values(self.maps.name(index))

    def target(self, index: int) -> Target:
        """What the map says of the image."""
        return self.read(self.maps.name(index), index)


def read_values(path: str) -> Values:
    """The values (H, W) of a palette or grey image, of 8 or 16 bits: not its colours."""
    try:
        with PillowImage.open(path, formats=("PNG",)) as image:
            if image.mode in ("P", "L") or image.mode.startswith("I"):
                return np.asarray(image).astype(np.int64).clip(0, 65535)
            mode = image.mode
    except Exception as error:  # a decoder fails as it likes on a damaged file
        raise BadInputError(f"{path}: cannot be read as a PNG ({error}): replace it") from error
    raise BadInputError(f"{path}: colours ({mode}), expected a palette or grey PNG whose values are classes")
