"""Series of frames, in folders or by a list: the image of a key is another frame of the query's series."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from moco.errors import BadInputError, one_line, quote
from moco.runtime.files import LARGEST_LIST, read_bounded
from moco.runtime.randomness import Integers, Stream, uniforms

NUMBER = re.compile(r"(\d+)")


class Series:
    """Several series, each a list of images in order: the key's image is another one of a series of the query's.

    An image may be in several series, of which one is drawn, or in none: then it is its own partner.
    """

    def __init__(self, groups: Sequence[Sequence[int]], count: int, within: int) -> None:
        """Take the series of `count` images by number; a partner is at most `within` places away."""
        self.within = within
        lengths = np.array([len(group) for group in groups], np.int64)
        stops = lengths.cumsum()
        self.order = np.array([row for group in groups for row in group], np.int64)
        self.first, self.stop = np.repeat(stops - lengths, lengths), np.repeat(stops, lengths)
        """The bounds of the series that each place of `order` is in."""
        self.places = self.order.argsort(kind="stable")
        """The places of image 0, then those of image 1, ..."""
        self.starts = self.order[self.places].searchsorted(np.arange(count + 1))

    def __call__(self, index: Integers, epochs: Integers, seed: int) -> Integers:
        """Draw a partner for each image of index (n,) in its epoch (n,): each frame near enough is equally likely."""
        u = uniforms(2, seed=seed, stream=Stream.PRETEXT, epoch=epochs, index=index)
        start, several = self.starts[index], self.starts[index + 1] - self.starts[index]
        which = start + _choose(u[:, 1], several)
        place = self.places[np.minimum(which, len(self.places) - 1)]
        low = np.maximum(self.first[place], place - self.within)
        count = np.minimum(self.stop[place] - 1, place + self.within) - low
        drawn = low + _choose(u[:, 0], count)
        partner = self.order[np.minimum(drawn + (drawn >= place), len(self.order) - 1)]
        return np.where((several > 0) & (count > 0), partner, index)


def _choose(u: np.ndarray, count: Integers) -> Integers:
    """Turn numbers in (0, 1) into whole numbers from 0 to count - 1; 0 where count is 0."""
    chosen: Integers = np.minimum((u * count).astype(np.int64), np.maximum(count - 1, 0))
    return chosen


def group_by_folder(names: Sequence[str]) -> list[list[int]]:
    """Make a series of the frames of each folder, in the order of the numbers in their names (`f2` before `f10`)."""

    def key(row: int) -> tuple[str, list[str | int]]:
        folder, file = os.path.split(names[row])
        return folder, [int(part) if place % 2 else part for place, part in enumerate(NUMBER.split(file))]

    ordered = sorted(range(len(names)), key=key)
    return [list(rows) for _, rows in groupby(ordered, lambda row: os.path.split(names[row])[0])]


def read_series_lines(path: str) -> Iterator[tuple[int, str]]:
    """Read the lines of a list that count, with their numbers. Raises BadInputError where it cannot be read."""
    try:
        text = read_bounded(Path(path), LARGEST_LIST).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise BadInputError(f"--series {path}: cannot be read ({error.strerror})") from error
    lines = enumerate(text.splitlines(), 1)
    return ((number, line) for number, line in lines if line.strip() and not line.startswith("#"))


def read_series(path: str, names: Sequence[str]) -> list[list[int]]:
    """Read a list of series: on each line the names of two or more images, in their order, with tabs between them.

    A line without a tab has commas; empty lines and those that begin with # do not count. Raises BadInputError for a
    line with fewer names, with one twice, or with one that is not in `names`, and for a file without a series.
    """
    rows, groups = {name: row for row, name in enumerate(names)}, list[list[int]]()
    for number, line in read_series_lines(path):
        where = f"--series {path}, line {number}"
        found = [name.strip() for name in line.split("\t" if "\t" in line else ",")]
        unknown = next((name for name in found if name not in rows), None)
        if len(found) < 2:
            raise BadInputError(
                f"{where}: one name ({one_line(line.strip())[:80]}), expected two or more with tabs between them"
            )
        if unknown is not None:
            raise BadInputError(
                f"{where}: no image {quote(unknown)} in --data: expected a path below it, such as {quote(names[0])}"
            )
        if len(set(found)) < len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise BadInputError(f"{where}: {quote(twice)} is there twice: expected different images")
        groups.append([rows[name] for name in found])
    if not groups:
        raise BadInputError(f"--series {path}: no series in it, expected two or more names on each line")
    return groups
