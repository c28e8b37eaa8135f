"""Sets of images that are made of another set: a part of it, or others in place of the unreadable."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from moco.data.channels import Values
from moco.data.forms import Form
from moco.data.images import NONE_KNOWN, Images, Labels, Marks, PathTable
from moco.data.replacement import TRIES
from moco.errors import BadInputError
from moco.runtime.randomness import Integers
from moco.shapes import Bytes, Image


@dataclass
class Subset:
    """Some images of a set, in the given order."""

    images: Images
    rows: Labels

    def __post_init__(self) -> None:
        self.labels = None if self.images.labels is None else self.images.labels[self.rows]
        self.classes = self.images.classes

    @property
    def in_memory(self) -> bool:
        """Return whether the whole set is in memory."""
        return self.images.in_memory

    @cached_property
    def unreadable(self) -> Mapping[int, str]:
        """Return the unreadable images of the whole set, by their numbers in this part."""
        known = self.images.unreadable
        here = np.flatnonzero(np.isin(self.rows, list(known))) if known else ()
        return {int(place): known[int(self.rows[place])] for place in here}

    @property
    def root(self) -> bytes | None:
        """Return the root of the whole set."""
        return self.images.root

    @property
    def name_table(self) -> None:
        """Return None: the table of the whole set has other names too."""
        return None

    @property
    def form(self) -> Form | None:
        """Return the form of the whole set."""
        return self.images.form

    @property
    def white_level(self) -> int | None:
        """Return the white level of the whole set."""
        return self.images.white_level

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image:
        return self.images[int(self.rows[index])]

    def name(self, index: int) -> str:
        """Return the image's name in the whole set."""
        return self.images.name(int(self.rows[index]))

    def encoded(self, index: int) -> bytes | None:
        """Return the image's file, if it has one in the whole set."""
        return self.images.encoded(int(self.rows[index]))

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read the channels of the image's file in the whole set."""
        return self.images.read_values(int(self.rows[index]), channels)

    def stack(self, index: Integers) -> Bytes | None:
        """Take the images of `index` from the whole set."""
        return self.images.stack(self.rows[index])

    def with_white_level(self, level: int) -> "Subset":
        """Return the same of a set with another white level."""
        return Subset(self.images.with_white_level(level), self.rows)

    def with_form(self, form: Form) -> "Subset":
        """Return the same with files read as channels."""
        return Subset(self.images.with_form(form), self.rows)

    def identify(self, index: Integers) -> Marks:
        """Return the marks that the images have in the whole set."""
        return self.images.identify(self.rows[index])


@dataclass
class Joined:
    """The images of several sets, one behind the other, without labels; each set's names begin with its prefix."""

    parts: tuple[Images, ...]
    prefixes: tuple[str, ...]
    name_table: ClassVar[None] = None
    root: ClassVar[None] = None

    def __post_init__(self) -> None:
        self.labels: Labels | None = None
        self.classes: tuple[str, ...] = ()
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    @cached_property
    def in_memory(self) -> bool:
        """Return whether all sets are in memory with images of one size."""
        if not all(part.in_memory for part in self.parts):
            return False
        firsts = [part.stack(np.arange(1)) for part in self.parts]
        shapes = {first.shape for first in firsts if first is not None}
        return len(shapes) == 1 and all(first is not None for first in firsts)

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Return the unreadable images of all sets, by their numbers in the joined set."""
        parts = zip(self._starts.tolist(), self.parts, strict=False)
        return {start + index: reason for start, part in parts for index, reason in part.unreadable.items()}

    @property
    def form(self) -> Form | None:
        """Return the form of the first set."""
        return self.parts[0].form

    @property
    def white_level(self) -> int | None:
        """Return the white level of the first set."""
        return self.parts[0].white_level

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Image:
        part, row = self._place(index)
        return self.parts[part][row]

    def name(self, index: int) -> str:
        """Return the image's name in its set, behind the set's prefix."""
        part, row = self._place(index)
        return self.prefixes[part] + self.parts[part].name(row)

    def encoded(self, index: int) -> bytes | None:
        """Return the image's file, if it has one in its set."""
        part, row = self._place(index)
        return self.parts[part].encoded(row)

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read the channels of the image's file in its set."""
        part, row = self._place(index)
        return self.parts[part].read_values(row, channels)

    def stack(self, index: Integers) -> Bytes | None:
        """Take the images of `index` from their sets, where all of these are in memory."""
        if not self.in_memory:
            return None
        return torch.stack([self._pixels(*self._place(row)) for row in index.tolist()])

    def with_white_level(self, level: int) -> "Joined":
        """Return the same of sets with another white level."""
        return Joined(tuple(part.with_white_level(level) for part in self.parts), self.prefixes)

    def with_form(self, form: Form) -> "Joined":
        """Return the same with files read as channels."""
        return Joined(tuple(part.with_form(form) for part in self.parts), self.prefixes)

    def identify(self, index: Integers) -> Marks:
        """Return the marks that the images have in their sets."""
        marks = [self.parts[part].identify(np.array([row])) for part, row in map(self._place, index.tolist())]
        kinds = dict.fromkeys(part.identify(np.arange(0)).kind for part in self.parts)
        contents, times = (np.array([mark[column][0] for mark in marks], np.uint32) for column in (1, 2))
        return Marks(" and ".join(kinds), contents, times)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, index - int(self._starts[part])

    def _pixels(self, part: int, row: int) -> Image:
        stacked = self.parts[part].stack(np.array([row]))
        assert stacked is not None
        return stacked[0]


def take_evenly(images: Images, count: int) -> Images:
    """Take `count` images that are spread evenly over the set, or all where there are no more."""
    if len(images) <= count:
        return images
    return Subset(images, np.linspace(0, len(images) - 1, count).astype(np.int64))


class Readable:
    """A set for a monitor, in which the next image of the same class stands in for one that cannot be read.

    It warns of each unreadable image once.
    """

    unreadable: ClassVar[Mapping[int, str]] = NONE_KNOWN

    def __init__(self, images: Images) -> None:
        self.images, self.labels, self.classes = images, images.labels, images.classes
        self._warned = set[int]()

    @property
    def in_memory(self) -> bool:
        """Return whether the set is in memory."""
        return self.images.in_memory

    @property
    def root(self) -> bytes | None:
        """Return the set's root."""
        return self.images.root

    @property
    def name_table(self) -> PathTable | None:
        """Return the set's table of names."""
        return self.images.name_table

    @property
    def form(self) -> Form | None:
        """Return the set's form."""
        return self.images.form

    @property
    def white_level(self) -> int | None:
        """Return the set's white level."""
        return self.images.white_level

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        return self._read(index)[1]

    def name(self, index: int) -> str:
        """Return the name of the image itself, not of one that stands in for it."""
        return self.images.name(index)

    def encoded(self, index: int) -> bytes | None:
        """Return the file of the image, or of what stands in for it: the image is decoded to know."""
        return self.images.encoded(self._read(index)[0])

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Read the channels of the image's file, or of what stands in for it."""
        return self.images.read_values(self._read(index)[0], channels)

    def stack(self, index: Integers) -> Bytes | None:
        """Take the images of `index`, or those that stand in for them."""
        if not self.images.in_memory:
            return None
        return self.images.stack(np.array([self._read(row)[0] for row in index.tolist()], np.int64))

    def with_white_level(self, level: int) -> "Readable":
        """Return the same of a set with another white level."""
        return Readable(self.images.with_white_level(level))

    def with_form(self, form: Form) -> "Readable":
        """Return the same with files read as channels."""
        return Readable(self.images.with_form(form))

    def identify(self, index: Integers) -> Marks:
        """Return the marks of the images themselves."""
        return self.images.identify(index)

    def _read(self, index: int) -> tuple[int, Image]:
        """Decode the image or, where it cannot be read, the first after it that can; with the number of that one."""
        tried = []
        for other in self._follow(index):
            try:
                return other, self.images[other]
            except BadInputError as error:
                tried.append(str(error))
                if other not in self._warned:
                    self._warned.add(other)
                    warnings.warn(f"{error}; in the monitor the next image of its class replaces it", stacklevel=3)
        raise BadInputError(f"none of {len(tried)} images of a class can be read; the first: {tried[0]}")

    def _follow(self, index: int) -> Iterator[int]:
        """Yield the image itself, then some that follow it in its class; behind the last comes the first."""
        yield index
        rows = np.arange(len(self)) if self.labels is None else np.flatnonzero(self.labels == self.labels[index])
        place = int(np.searchsorted(rows, index))
        yield from (int(row) for row in np.roll(rows, -place - 1)[: min(TRIES, len(rows) - 1)])


def make_readable(images: Images) -> Images:
    """Give the set stand-ins for what cannot be read; a set that is whole in memory stays as it is."""
    return images if images.in_memory and not images.unreadable else Readable(images)
