"""The user's marks in the explorer, keep or reject, stored in the run's folder step by step for undo."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from moco.errors import BadInputError
from moco.runtime.files import read_bounded, replace_file

FILE = Path("evaluations") / "explore-marks.json"
Mark = Literal["keep", "reject"]
MARKS: tuple[str, ...] = get_args(Mark)


@dataclass
class Tray:
    """The marks of images by their names, so that they hold for other samples of the set too."""

    path: Path
    names: Sequence[str]
    """Names of the shown images, by their numbers."""
    steps: list[tuple[str, Mark | None]]
    """What was marked, in order; None takes a mark away."""
    root: str = ""
    """The folder of the named files; empty if the images are not files."""

    def marks(self) -> dict[str, Mark]:
        """Give the mark of each name that has one."""
        last = dict(self.steps)
        return {name: mark for name, mark in last.items() if mark is not None}

    def describe(self) -> dict[str, Any]:
        """Say what the page shows: marks by the images' numbers, how many have each, and how many steps there are."""
        marks, number = self.marks(), {name: row for row, name in enumerate(self.names)}
        counts = {mark: sum(own == mark for own in marks.values()) for mark in MARKS}
        shown = {number[name]: mark for name, mark in marks.items() if name in number}
        return {"marks": shown, "counts": counts, "steps": len(self.steps)}

    def mark(self, row: int, mark: Mark | None) -> None:
        """Mark an image. Raises BadInputError where that cannot be kept."""
        self._keep([*self.steps, (self.names[row], mark)])

    def undo(self) -> None:
        """Take the last step back, if there is one. Raises BadInputError where that cannot be kept."""
        self._keep(self.steps[:-1])

    def write_list(self, mark: Mark) -> bytes:
        """List what has a mark, a path on each line, absolute for files; names with line breaks are left out."""
        names = sorted(name for name, own in self.marks().items() if own == mark and len(name.splitlines()) == 1)
        return "".join(f"{os.path.join(self.root, name)}\n" for name in names).encode("utf-8", "surrogateescape")

    def _keep(self, steps: list[tuple[str, Mark | None]]) -> None:
        try:
            replace_file(self.path, json.dumps({"steps": steps}).encode())
        except OSError as error:
            raise BadInputError(
                f"{self.path}: cannot be written ({error.strerror}): free some space, or make it writable"
            ) from error
        self.steps = steps


def open_tray(run: Path, names: Sequence[str], root: str = "") -> Tray:
    """Read the marks of a run. Raises BadInputError where the file is damaged: marks are a person's work."""
    path = run / FILE
    if not path.exists():
        return Tray(path, names, [], root)
    try:
        steps = json.loads(read_bounded(path))["steps"]
        for name, mark in steps:
            if not isinstance(name, str) or (mark is not None and mark not in MARKS):
                raise ValueError(f"{mark!r} is no mark")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"{path}: the marks cannot be read ({error}): mend the file, or move it away") from error
    return Tray(path, names, [(name, mark) for name, mark in steps], root)
