"""Many paths in two flat arrays, and what has a name for each integer."""

import os
from array import array
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class Named(Protocol):
    """A name for each integer."""

    @property
    def name_table(self) -> "PathTable | None":
        """Return all names as one table; None if they are not in one."""

    def name(self, index: int) -> str:
        """Return what a person calls it."""


class PathTable:
    """Many paths in two flat arrays, in memory or mapped from disk: one string of bytes, and where each path ends."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        ends, text = array("q", [0]), bytearray()
        for path in paths:
            text += path
            ends.append(len(text))
        self.text, self.ends = np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64)

    @classmethod
    def from_arrays(cls, text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> "PathTable":
        """Make the table of n paths whose arrays are already there; `ends` is (n + 1,) and begins with 0."""
        table = cls(())
        table.text, table.ends = text, ends
        return table

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.text[self.ends[index] : self.ends[index + 1]].tobytes()

    @property
    def name_table(self) -> "PathTable":
        """Return the table itself."""
        return self

    def name(self, index: int) -> str:
        """Return a path as text."""
        return os.fsdecode(self[index])
