"""Measures the size of a set's images, and warns if they are too small for the views."""

import warnings
from contextlib import suppress

import numpy as np

from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.errors import BadInputError

SAMPLED = 16
"""Images that are looked at."""
ENLARGED = 4.0
"""How many times larger than the images views may be ..."""
TINY = 8
"""... and images of fewer pixels a side show too little at any size."""


def measure_side(images: Images) -> float | None:
    """Measure the median of the shorter side of some images, in pixels; None where none of them can be read."""
    some, sides = take_evenly(images, SAMPLED), list[int]()
    for index in range(len(some)):
        with suppress(BadInputError):
            sides.append(min(some[index].shape[1:]))
    return float(np.median(sides)) if sides else None


def warn_of_small(images: Images, data: str, view_size: int) -> None:
    """Warn where views are much larger than the images that they are cut from."""
    side = measure_side(images)
    if side is not None and (view_size > ENLARGED * side or side < TINY):
        warnings.warn(
            f"--data {data}: most images are about {side:.0f} pixels wide or high, and views have {view_size}: "
            f"enlarged images cost time and show nothing new. Give larger images (are these thumbnails?), or a smaller "
            f"--image-size and --view-size",
            stacklevel=2,
        )
