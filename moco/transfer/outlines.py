"""Outlines of objects, polygons or run lengths, as bytes in one flat table; masks are drawn by COCO's rule."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.errors import BadInputError

Mask = npt.NDArray[np.uint8]

POLYGONS, RUNS = b"P", b"R"
FEWEST_COORDINATES = 6
"""Numbers of the shortest polygon, three corners: fewer enclose nothing, and COCO's code takes four for a box."""
LONGEST_NUMBER = 35
"""Bits of a number in COCO's text, 5 in a character: 32 are needed."""
BEYOND = 2
"""Corners may lie this many times the image's size beyond it; a mistake would draw a line of any length."""


def coco_masks() -> Any:
    """The functions on masks of faster-coco-eval. Raises BadInputError where it is not installed."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise BadInputError(
            "masks and COCO's figures need faster-coco-eval: pip install 'momentum-contrast[detection]'"
        ) from error
    return mask


def pack_outline(outline: Any, size: tuple[int, int]) -> bytes:
    """An annotation's polygons, or its run lengths as numbers or COCO's text, as bytes.

    Raises ValueError, with what is wrong, for anything else, and for what does not fit the image's size (H, W).
    """
    if isinstance(outline, dict):
        return RUNS + runs(outline, size).tobytes()
    if not isinstance(outline, list):
        raise ValueError("a segmentation that is neither polygons nor run lengths")
    rings = [ring for ring in outline if len(ring) >= FEWEST_COORDINATES]
    limit = (1 + BEYOND) * max(size)
    for ring in rings:
        if len(ring) % 2:
            raise ValueError("a polygon with an odd number of coordinates")
        if not (min(ring) >= -limit and max(ring) <= limit):
            raise ValueError(f"a polygon with a corner far outside the image of {size[1]} x {size[0]} pixels")
    numbers = array("d", [len(rings), *map(len, rings)])
    for ring in rings:
        numbers.extend(ring)
    return POLYGONS + numbers.tobytes()


def runs(outline: dict[str, Any], size: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """The lengths of a mask's runs, column by column, beginning with the background's. Raises ValueError."""
    counts = outline.get("counts")
    numbers = _from_text(counts) if isinstance(counts, str) else counts
    if list(size) != list(outline.get("size", ())):
        raise ValueError(f"run lengths of size {outline.get('size')}, expected {list(size)} as its image")
    whole = isinstance(numbers, list) and all(isinstance(number, int) and number >= 0 for number in numbers)
    if not whole or sum(numbers) != size[0] * size[1]:  # type: ignore[arg-type]
        raise ValueError(f"run lengths that do not add up to the image's {size[0] * size[1]} pixels")
    return np.array(numbers, np.uint32)


def _from_text(text: str) -> list[int]:
    """COCO's text: 5 bits in a character from 48 on, a sixth if more follow; from the fourth number on, steps."""
    numbers = list[int]()
    value = shift = 0
    for code in text.encode("ascii", "replace"):
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > LONGEST_NUMBER:
            raise ValueError("run lengths of which one has more than 32 bits")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers


def coco_outline(packed: bytes, size: tuple[int, int]) -> Any:
    """The run lengths of a packed outline as COCO's code takes them."""
    masks = coco_masks()
    height, width = size
    if packed[:1] == RUNS:
        return masks.frPyObjects({"counts": _uint32(packed).tolist(), "size": [height, width]}, height, width)
    rings = polygons(packed)
    if not rings:
        return masks.encode(np.zeros((height, width), np.uint8, order="F"))
    return masks.merge(masks.frPyObjects(rings, height, width))


def polygons(packed: bytes) -> list[list[float]]:
    """The polygons of a packed outline."""
    numbers = np.frombuffer(packed, np.float64, offset=1)
    count = int(numbers[0])
    ends = np.cumsum(numbers[1 : 1 + count], dtype=np.int64)
    return [ring.tolist() for ring in np.split(numbers[1 + count :], ends[:-1])] if count else []


def draw_masks(outlines: Sequence[bytes], size: tuple[int, int]) -> Mask:
    """The masks (n, H, W), 0 or 1, of packed outlines."""
    drawn = np.zeros((len(outlines), *size), np.uint8)
    for mask, packed in zip(drawn, outlines, strict=True):
        if packed[:1] == RUNS:
            lengths = _uint32(packed)
            mask[:] = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(size, order="F")
        else:
            mask[:] = coco_masks().decode(coco_outline(packed, size))
    return drawn


def _uint32(packed: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(packed[1:], np.uint32)
