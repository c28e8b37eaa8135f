"""How much of the range of brightness a set uses: 12 bits stored in 16 are nearly black, hard to learn from."""

import warnings
from contextlib import suppress

from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.errors import BadInputError

SAMPLED = 8
"""Images that are looked at, evenly spread over the set."""
FEWEST = 4
"""A set of fewer images is not judged."""
QUARTER = 64
"""Values of a byte; a set whose brightest value is darker uses less than a quarter of the range."""


def measure_brightest(images: Images) -> int | None:
    """Measure the largest value, 0 to 255, of some images; None where fewer than four can be read."""
    brightest = list[int]()
    some = take_evenly(images, SAMPLED)
    for index in range(len(some)):
        with suppress(BadInputError):
            brightest.append(int(some[index].max()))
    return max(brightest) if len(brightest) >= FEWEST else None


def warn_of_dark(images: Images, data: str) -> None:
    """Warn where a set uses less than a quarter of its range, as 12 bits that are stored in 16 do."""
    brightest = measure_brightest(images)
    if brightest is not None and 0 < brightest < QUARTER:
        warnings.warn(
            f"--data {data}: the brightest value of {SAMPLED} images is {brightest} of 255, so all are nearly black "
            f"(10, 12 or 14 bits stored in 16?): scale them to the full range first, by one factor for the whole set",
            stacklevel=2,
        )
