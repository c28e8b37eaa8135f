"""Images that cannot be read while a run goes on: which ones take their place, and when there are too many of them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from moco.data.images import ArrayImages, Images
from moco.errors import BadInputError, one_line
from moco.runtime import distributed
from moco.runtime.randomness import Integers, IntegersLike, Stream, permuted
from moco.shapes import Image

TRIES = 20
"""Images that are tried in place of one; if none of them can be read, it is not single files that are damaged."""
FEW = 10
"""Unreadable images that no run stops for, unless they are all that it has seen; so many are named in an error."""
LARGEST_SHARE = 0.01
"""Of the images seen, beyond which a run stops."""


@dataclass(frozen=True)
class Replaced:
    """An image that could not be read, as a run's log tells of it."""

    index: int
    name: str
    by: str
    """The image in its place."""
    reason: str

    @property
    def sentence(self) -> str:
        """For people, on one line."""
        return one_line(f"{self.by} stands in for {self.reason}")


class StandIns:
    """Puts others in place of the images of a batch that cannot be read; `index` (n,) is changed to what is used.

    In place of image i comes where a random permutation takes i, by (seed, epoch) and the number of the try: a pure
    function of these and i, so that it is the same on every rank, for any number of workers, and after resuming.
    """

    def __init__(self, images: Images, index: Integers, epoch: IntegersLike, seed: int) -> None:
        self.images, self.index, self.seed = images, index, seed
        self.planned, self.epochs = index.copy(), np.broadcast_to(np.asarray(epoch), index.shape)
        self._failed: dict[int, list[tuple[int, str]]] = {}

    def replace(self, row: int, error: BadInputError) -> int:
        """Put another image at `row`, since the one there cannot be read, and return it.

        Raises BadInputError with the first paths where none can be.
        """
        failed = self._failed.setdefault(row, [])
        failed.append((int(self.index[row]), str(error)))
        if len(failed) > TRIES:
            raise BadInputError(
                f"none of {len(failed)} images that were tried can be read (is the data still there?): "
                f"{named(self.images.name(index) for index, _ in failed)}; the first: {failed[0][1]}"
            )
        count, epoch = len(self.images), int(self.epochs[row]) * TRIES + len(failed)
        others = permuted(int(self.planned[row]), count, seed=self.seed, stream=Stream.STAND_IN, epoch=epoch)
        self.index[row] = others[0]
        return int(others[0])

    def pass_over(self, unreadable: Mapping[int, str]) -> None:
        """Replace the images that are known not to be readable, and why."""
        if unreadable:
            for row in np.flatnonzero(np.isin(self.index, list(unreadable))):
                while (index := int(self.index[row])) in unreadable:
                    self.replace(int(row), BadInputError(unreadable[index]))

    def replaced(self) -> tuple[Replaced, ...]:
        """The images of the batch that others stand in for."""
        name = self.images.name
        return tuple(
            Replaced(failed[0][0], name(failed[0][0]), name(int(self.index[row])), failed[0][1])
            for row, failed in sorted(self._failed.items())
        )


class Damage:
    """The images of a run that could not be read, each counted once."""

    def __init__(self, images: int, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.names: dict[int, str] = {}

    def add(self, replaced: Iterable[Replaced]) -> list[Replaced]:
        """Count these; returns those that were not known yet."""
        new = list({one.index: one for one in replaced if one.index not in self.names}.values())
        self.names |= {one.index: one.name for one in new}
        return new

    def gather(self, replaced: Iterable[Replaced]) -> list[Replaced]:
        """Count those of every rank's part of a batch; returns those that were not known yet."""
        return self.add(one for part in distributed.gather_values(tuple(replaced)) for one in part)

    def check(self, steps: int) -> None:
        """Raise BadInputError, with the first paths, where they are too many of the images seen in so many steps."""
        count, seen = len(self.names), min(steps * self.batch_size, self.images)
        if count > LARGEST_SHARE * seen and (count > FEW or count == seen):
            raise BadInputError(
                f"{count} of the first {seen} images cannot be read, and at most {LARGEST_SHARE:.0%} are replaced: "
                f"remove or replace {named(self.names.values())}"
            )


class Readable:
    """A set for a monitor, in which the next image of the same class stands in for one that cannot be read.

    Each is warned of once.
    """

    def __init__(self, images: Images) -> None:
        self.images, self.labels, self.classes = images, images.labels, images.classes
        self._told = set[int]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        tried = []
        for other in self._from(index):
            try:
                return self.images[other]
            except BadInputError as error:
                tried.append(str(error))
                if other not in self._told:
                    self._told.add(other)
                    warnings.warn(f"{error}; in the monitor the next image of its class stands in for it", stacklevel=2)
        raise BadInputError(f"none of {len(tried)} images of a class can be read; the first: {tried[0]}")

    def name(self, index: int) -> str:
        """As in the whole set."""
        return self.images.name(index)

    def _from(self, index: int) -> Iterator[int]:
        """The image itself, then some that follow it, beginning anew behind the last."""
        yield index
        rows = np.arange(len(self)) if self.labels is None else np.flatnonzero(self.labels == self.labels[index])
        place = int(np.searchsorted(rows, index))
        yield from (int(row) for row in np.roll(rows, -place - 1)[: min(TRIES, len(rows) - 1)])


def readable(images: Images) -> Images:
    """The set with stand-ins for what cannot be read; one that is whole in memory needs none."""
    return images if isinstance(images, ArrayImages) and not images.unreadable else Readable(images)


def named(names: Iterable[str]) -> str:
    """The first names of many, on one line."""
    first = list(names)
    return ", ".join(one_line(name) for name in first[:FEW]) + (", ..." if len(first) > FEW else "")
