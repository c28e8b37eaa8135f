"""Finds images that cannot be decoded, and leaves them out."""

import itertools
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from moco.data.derived import Subset
from moco.data.images import Images
from moco.data.replacement import list_names
from moco.errors import BadInputError, counted
from moco.runtime.progress import show_progress

AT_ONCE = 1024
"""Images that wait for a thread."""


def find_unreadable(images: Images, threads: int, title: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield the images that cannot be decoded, and why, in their order."""

    def examine(index: int) -> str | None:
        try:
            images[index]
        except BadInputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(images), AT_ONCE)
        chunks = (pool.map(examine, range(start, min(start + AT_ONCE, len(images)))) for start in starts)
        reasons = show_progress(itertools.chain.from_iterable(chunks), title, len(images))
        for index, reason in enumerate(reasons):
            if reason is not None:
                yield index, reason


def leave_out_unreadable(images: Images, threads: int = 1) -> Images:
    """Return the images that can be decoded; warn of the others."""
    rows = [row for row, _ in find_unreadable(images, threads)]
    if not rows:
        return images
    few = list_names(images.name(row) for row in rows)
    warnings.warn(f"left out {counted(len(rows), 'image')} that cannot be read: {few}", stacklevel=2)
    return Subset(images, np.setdiff1d(np.arange(len(images)), rows))
