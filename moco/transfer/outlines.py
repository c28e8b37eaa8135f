"""Outlines of objects, polygons or run lengths, as bytes in one flat table; masks are drawn by COCO's rule."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.errors import BadInputError

Mask = npt.NDArray[np.uint8]
Ring = npt.NDArray[np.float64]

POLYGONS, RUNS = b"P", b"R"
FEWEST_COORDINATES = 6
"""Numbers of the shortest polygon, three corners: fewer enclose nothing, and COCO's code takes four for a box."""
LONGEST_NUMBER = 35
"""Bits of a number in COCO's text, 5 in a character: 32 are needed."""
BEYOND = 2
"""Corners may lie this many times the image's size beyond it; a mistake would draw a line of any length."""
BOX_ROUNDING = 1.5
"""Pixels by which four numbers may differ from the box that they are taken for."""
FLAT = 1e-9
"""A polygon whose corners all lie this near to one line, as a part of its length, encloses nothing."""
LONGEST_SHIFT = 60
"""Bits of the largest number in COCO's text."""


def coco_masks() -> Any:
    """Return the functions on masks of faster-coco-eval. Raises BadInputError where it is not installed."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise BadInputError(
            "masks and COCO's figures need faster-coco-eval: pip install 'momentum-contrast[detection]'"
        ) from error
    return mask


def pack_outline(outline: Any, size: tuple[int, int], box: Sequence[float] = ()) -> bytes:
    """Pack an annotation's polygons or run lengths (numbers or COCO's text) as bytes; none if it encloses nothing.

    Polygons may also be pairs of numbers, or a single flat list. Four numbers are the object's box (x, y, width, height
    or its two corners) where they agree with `box` (x1 y1 x2 y2), and else nothing.
    Raises ValueError, with what is wrong, for anything else, and for what does not fit the image's size (H, W).
    """
    if isinstance(outline, dict):
        lengths = runs(outline, size)
        return RUNS + lengths.tobytes() if lengths[1::2].any() else b""
    if not isinstance(outline, list | None):
        raise ValueError("a segmentation that is neither polygons nor run lengths")
    rings = [ring for ring in (_checked(ring, size, box) for ring in _rings(outline or [])) if len(ring)]
    numbers = array("d", [len(rings), *map(len, rings)])
    for ring in rings:
        numbers.extend(ring.tolist())
    return POLYGONS + numbers.tobytes() if rings else b""


def _rings(outline: list[Any]) -> list[Ring]:
    """The polygons (x1 y1 x2 y2 ...) of a segmentation, in whichever of the usual ways it lists their numbers."""
    if outline and (
        not isinstance(outline[0], list) or all(isinstance(one, list) and len(one) == 2 for one in outline)
    ):
        outline = [outline]  # one polygon, flat or as pairs
    try:
        rings = [np.array(ring, np.float64) for ring in outline]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("a polygon that is not a list of numbers") from error
    if any(ring.ndim != 1 and ring.shape[1:] != (2,) for ring in rings):
        raise ValueError("a segmentation that is neither polygons nor run lengths")
    return [ring.ravel() for ring in rings]


def _checked(ring: Ring, size: tuple[int, int], box: Sequence[float]) -> Ring:
    """The polygon, or no numbers where it encloses nothing."""
    if not np.isfinite(ring).all():
        raise ValueError("a polygon with a corner that is not a number")
    if len(ring) and np.abs(ring).max() > (1 + BEYOND) * max(size):
        raise ValueError(f"a polygon with a corner far outside the image of {size[1]} x {size[0]} pixels")
    if len(ring) == len(box) == 4:
        corners = np.concatenate([ring[:2], ring[:2] + ring[2:]])
        if min(np.abs(form - box).max() for form in (ring, corners)) <= BOX_ROUNDING:
            return rectangle(box)
    if len(ring) < FEWEST_COORDINATES:
        return ring[:0]
    if len(ring) % 2:
        raise ValueError("a polygon with an odd number of coordinates")
    from_first = ring.reshape(-1, 2) - ring[:2]
    farthest = from_first[np.square(from_first).sum(1).argmax()]
    across = from_first[:, 0] * farthest[1] - from_first[:, 1] * farthest[0]
    return ring if np.abs(across).max() > FLAT * np.square(farthest).sum() else ring[:0]


def rectangle(box: Sequence[float]) -> Ring:
    """Return the polygon of a box x1 y1 x2 y2."""
    x1, y1, x2, y2 = box
    return np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64)


def pack_rectangle(box: Sequence[float]) -> bytes:
    """Pack a box x1 y1 x2 y2 as the outline of its object."""
    return POLYGONS + array("d", [1, 8, *rectangle(box).tolist()]).tobytes()


def extent(packed: bytes, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box x1 y1 x2 y2 around a packed outline that encloses something."""
    if packed[:1] == POLYGONS:
        corners = np.concatenate([np.array(ring).reshape(-1, 2) for ring in polygons(packed)])
        (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
        return x1, y1, x2, y2
    mask = draw_masks([packed], size)[0]
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def runs(outline: dict[str, Any], size: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Return the lengths of a mask's runs, column by column, beginning with the background's. Raises ValueError."""
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
        if shift > LONGEST_SHIFT:
            raise ValueError("run lengths with a number that does not end")
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
    """Return the run lengths of a packed outline, if there is one, as COCO's code takes them."""
    masks = coco_masks()
    height, width = size
    if packed[:1] == RUNS:
        return masks.frPyObjects({"counts": _uint32(packed).tolist(), "size": [height, width]}, height, width)
    return masks.merge(masks.frPyObjects(polygons(packed), height, width))


def polygons(packed: bytes) -> list[list[float]]:
    """Return the polygons of a packed outline."""
    numbers = np.frombuffer(packed, np.float64, offset=1)
    count = int(numbers[0])
    ends = np.cumsum(numbers[1 : 1 + count], dtype=np.int64)
    return [ring.tolist() for ring in np.split(numbers[1 + count :], ends[:-1])] if count else []


def draw_masks(outlines: Sequence[bytes], size: tuple[int, int]) -> Mask:
    """Draw the masks (n, H, W), 0 or 1, of packed outlines; nothing but 0 where there is none."""
    drawn = np.zeros((len(outlines), *size), np.uint8)
    for mask, packed in zip(drawn, outlines, strict=True):
        if not packed:
            continue
        if packed[:1] == RUNS:
            lengths = _uint32(packed)
            mask[:] = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(size, order="F")
        else:
            mask[:] = coco_masks().decode(coco_outline(packed, size))
    return drawn


def _uint32(packed: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(packed[1:], np.uint32)
