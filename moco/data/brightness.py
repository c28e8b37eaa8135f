"""How much of its range a set uses: which value of its 16-bit files is white, and a warning where all is nearly black.

Cameras and scanners store 10, 12 or 14 bits in files of 16. Scaled by the full range these are nearly black, and only a
few of the 256 values of a byte are left.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from moco.data.decoding import WHITEST, Deep, decode_deep
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.data.notes import Notes
from moco.errors import BadInputError

LOOKED_AT = 32
"""Number of inspected images, spread evenly over the set."""
SAMPLED = 8
"""Number of decoded images that decide whether a set is called nearly black."""
FEWEST = 4
"""A set of fewer images is not judged."""
MOST_VALUES = 1 << 18
"""Values of an image that are looked at, about."""
BRIGHT = 0.999
"""Share of an image's values that are no brighter than what it counts with: single bright pixels are defects."""
OUTLIERS = 16
"""One image in so many, and at least one, may be brighter than the white that is chosen."""
DEPTHS = (8, 10, 12, 14)
"""Bits that are stored in 16; with 14 and fewer a set uses less than a quarter of the range."""
QUARTER = 64
"""Values of a byte; a set whose brightest value is darker uses less than a quarter of the range."""
SIGNED_SHARE = 0.01
"""Share of the values that must lie in the lowest and in the highest quarter, with none between, to be negative."""


def settle_white_level(images: Images, given: int | None, notes: Notes) -> int | None:
    """Return the value of 16-bit files that becomes white: the given one, else a measured one where there are such.

    One value holds for the whole set. Notes say what was measured, and where it does not fit the given one.
    """
    deep = list(_find_deep(images))
    if len(deep) < FEWEST:
        return given
    measured, remark = _measure(deep)
    if given is None:
        if remark:
            notes.remark(remark)
        return measured
    if given != WHITEST and measured != given:
        notes.remark(f"{given} of its 16-bit images is white, as given or stored with the weights; {measured} suits it")
    elif given == WHITEST > measured:
        notes.remark(f"its 16-bit images are dark: {measured} would suit as white, and {WHITEST} is given or stored")
    return given


def _find_deep(images: Images) -> Iterator[Deep]:
    """Yield values (V,) of the 16-bit grey images among some that are spread evenly."""
    some = take_evenly(images.with_white_level(WHITEST), LOOKED_AT)  # a copy, which keeps no files open
    for index in range(len(some)):
        with suppress(BadInputError):
            content = some.encoded(index)
            deep = None if content is None else decode_deep(content, some.name(index))
            if deep is not None and deep.any():
                yield deep.ravel()[:: 1 + deep.size // MOST_VALUES]


def _measure(deep: Sequence[Deep]) -> tuple[int, str]:
    """Choose the smallest depth that holds all images but a few outliers; say so where it is not 16 bits."""
    if _look_signed(deep):
        return WHITEST, (
            f"its 16-bit images have values near 0 and near {WHITEST} and none between, as negative numbers have that "
            f"are read as unsigned: add an offset to them first; they are not scaled"
        )
    bright = sorted((int(np.quantile(values, BRIGHT)) for values in deep), reverse=True)
    aside = max(1, len(bright) // OUTLIERS)
    bits = next((bits for bits in DEPTHS if bright[aside] < 1 << bits), 16)
    level = (1 << bits) - 1
    if bits < 16:
        brighter = sum(value > level for value in bright)
        more = f"; of {len(bright)} images {brighter} have brighter values, which become white" if brighter else ""
        return level, (
            f"its 16-bit images use {bits} bits: {level} becomes white (--white-level {WHITEST} leaves them dark){more}"
        )
    dark = sum(value < 1 << 12 for value in bright)
    if 4 * dark >= len(bright):
        return level, (
            f"of {len(bright)} 16-bit images {dark} use 12 bits or fewer and others all 16: they are not scaled; bring "
            f"them to one range, or give --white-level"
        )
    return level, ""


def _look_signed(deep: Sequence[Deep]) -> bool:
    values = np.concatenate(deep)
    low, high = (values < 1 << 14).mean(), ((values >= 3 << 14) & (values < WHITEST)).mean()
    between = ((values >= 1 << 14) & (values < 3 << 14)).mean()
    return bool(min(low, high) > SIGNED_SHARE > 10 * between)


def measure_brightest(images: Images) -> int | None:
    """Measure the largest value, 0 to 255, of some images; None where fewer than four can be read."""
    if images.form is not None:  # their range is their own
        return None
    brightest = list[int]()
    some = take_evenly(images, SAMPLED)
    for index in range(len(some)):
        with suppress(BadInputError):
            brightest.append(int(some[index].max()))
    return max(brightest) if len(brightest) >= FEWEST else None


def warn_of_dark(images: Images, data: str) -> None:
    """Warn where a set uses less than a quarter of its range all the same: dark pictures, or 16 bits of colour."""
    brightest = measure_brightest(images)
    if brightest is not None and 0 < brightest < QUARTER:
        warnings.warn(
            f"--data {data}: the brightest value of {SAMPLED} images is {brightest} of 255, so all are nearly black "
            f"(10, 12 or 14 bits of colour stored in 16?): scale them to the full range first, by one factor for the "
            f"whole set",
            stacklevel=2,
        )
