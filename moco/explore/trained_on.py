"""What a run was trained on, as its folder says: the images and how they were read."""

from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.report.runs import read_run


def data_of(run: Path) -> str:
    """Return the images that a run was trained on. Raises BadInputError where they are no longer there."""
    from moco.explore.gallery import is_here

    data = read_run(run).config.get("data")
    if not isinstance(data, str) or not is_here(data):
        raise BadInputError(f"{run}: its images ({data}) are no longer there: give --data")
    return data


def excluded_by(run: Path) -> tuple[str, ...]:
    """Return what a run left out; nothing if there is only its encoder."""
    patterns = _setting_of(run, "exclude")
    return tuple(map(str, patterns)) if isinstance(patterns, list) else ()


def most_pixels_of(run: Path) -> int | None:
    """Return how many pixels the images of a run might have; None if that was left open."""
    most = _setting_of(run, "most_pixels")
    return most if isinstance(most, int) and most > 0 else None


def _setting_of(run: Path, name: str) -> Any:
    return read_run(run).config.get(name) if (run / "config.json").is_file() else None
