"""Replaces images that cannot be read during a run, and ends the run if there are too many."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from moco.data.images import Images
from moco.errors import BadInputError, one_line
from moco.runtime import distributed
from moco.runtime.randomness import Integers, IntegersLike, Stream, permute

TRIES = 20
"""So many images are tried in place of one; if none can be read, more than single files is damaged."""
TOLERATED = 10
"""No run stops for so many unreadable images, unless they are all that it has seen."""
LARGEST_SHARE = 0.01
"""A run stops where more of the images that it has seen are unreadable."""
MOST_NAMED = 10
"""An error names no more images than these."""


@dataclass(frozen=True)
class Replaced:
    """An image that could not be read, for a run's log."""

    index: int
    name: str
    by: str
    """The image in its place."""
    reason: str

    @property
    def sentence(self) -> str:
        """Describe the replacement on one line."""
        return one_line(f"{self.by} replaces {self.reason}")


class ChosenImages:
    """The images of a batch: those that were planned, and others in the rows of those that cannot be read.

    In place of image i comes where a random permutation takes i, by (seed, epoch) and the number of the try: a pure
    function of these and i, so that it is the same on every rank, for any number of workers, and after resuming. With
    `instead` (n,), the image that this names for the row is tried first.
    """

    def __init__(
        self,
        images: Images,
        planned: Integers,
        epoch: IntegersLike,
        seed: int,
        *,
        stand_ins: bool = True,
        instead: Integers | None = None,
    ) -> None:
        self.images, self.planned, self.seed, self.stand_ins = images, planned, seed, stand_ins
        self.epochs = np.broadcast_to(np.asarray(epoch), planned.shape)
        """The epoch of each row."""
        self.index = planned.copy()
        """The image of each row that is used."""
        self._instead, self._absorbed = instead, tuple[Replaced, ...]()
        self._failed: dict[int, list[tuple[int, str]]] = {}

    def replace(self, row: int, error: BadInputError) -> int:
        """Put another image at `row`, since the one there cannot be read, and return it.

        Raises BadInputError with the first paths where none can be read, or the error itself without `stand_ins`.
        """
        if not self.stand_ins:
            raise error
        failed = self._failed.setdefault(row, [])
        failed.append((int(self.index[row]), str(error)))
        if len(failed) > TRIES:
            raise BadInputError(
                f"none of {len(failed)} images that were tried can be read (is the data still there?): "
                f"{list_names(self.images.name(index) for index, _ in failed)}; the first: {failed[0][1]}"
            )
        if self._instead is not None and len(failed) == 1:
            self.index[row] = self._instead[row]
            return int(self.index[row])
        count, epoch = len(self.images), int(self.epochs[row]) * TRIES + len(failed)
        others = permute(int(self.planned[row]), count, seed=self.seed, stream=Stream.STAND_IN, epoch=epoch)
        self.index[row] = others[0]
        return int(others[0])

    def absorb(self, others: "ChosenImages") -> None:
        """Count what others replaced among what this batch replaced."""
        self._absorbed += others.replaced()

    def replace_known(self) -> None:
        """Replace the images that the set knows to be unreadable."""
        unreadable = self.images.unreadable
        if unreadable:
            for row in np.flatnonzero(np.isin(self.index, list(unreadable))):
                while (index := int(self.index[row])) in unreadable:
                    self.replace(int(row), BadInputError(unreadable[index]))

    def replaced(self) -> tuple[Replaced, ...]:
        """Return the images of the batch that others stand in for."""
        name = self.images.name
        own = tuple(
            Replaced(failed[0][0], name(failed[0][0]), name(int(self.index[row])), failed[0][1])
            for row, failed in sorted(self._failed.items())
        )
        return own + self._absorbed


class Damage:
    """The images of a run that could not be read, each counted once."""

    def __init__(self, images: int, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.names: dict[int, str] = {}

    def add(self, replaced: Iterable[Replaced]) -> list[Replaced]:
        """Count these, and return those that were not known yet."""
        new = list({one.index: one for one in replaced if one.index not in self.names}.values())
        self.names |= {one.index: one.name for one in new}
        return new

    def gather(self, replaced: Iterable[Replaced]) -> list[Replaced]:
        """Count those of every rank's part of a batch; returns those that were not known yet."""
        return self.add(one for part in distributed.gather_values(tuple(replaced)) for one in part)

    def check(self, steps: int) -> None:
        """Raise BadInputError, with the first paths, where they are too many of the images seen in so many steps."""
        count, seen = len(self.names), min(steps * self.batch_size, self.images)
        if count > LARGEST_SHARE * seen and (count > TOLERATED or count == seen):
            raise BadInputError(
                f"{count} of the first {seen} images cannot be read, and at most {LARGEST_SHARE:.0%} are replaced: "
                f"remove or replace {list_names(self.names.values())}"
            )


def list_names(names: Iterable[str]) -> str:
    """Write the first of many names on one line."""
    first = list(names)
    return ", ".join(one_line(name) for name in first[:MOST_NAMED]) + (", ..." if len(first) > MOST_NAMED else "")
