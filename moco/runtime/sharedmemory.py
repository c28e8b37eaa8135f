"""The memory through which loading processes hand over what they made; containers often have 64 MB of it."""

import math
import shutil
from pathlib import Path

from moco.errors import BadInputError

FOLDER = Path("/dev/shm")
AHEAD = 2
"""Batches that each loading process makes ahead: torch's default."""


def require_shared_memory(size: int, workers: int, batches: int) -> None:
    """Raise BadInputError where the batches of `size` bytes that loading processes make ahead do not fit."""
    if not workers or not FOLDER.is_dir():
        return
    needed, free = min(AHEAD * workers + 1, batches) * size, shutil.disk_usage(FOLDER).free
    if needed > free:
        fitting = max(0, (free // max(1, size) - 1) // AHEAD)
        raise BadInputError(
            f"{FOLDER} has {free / 2**20:.0f} MiB of shared memory free, and {workers} loading process(es) need "
            f"{needed / 2**20:.0f} MiB for {AHEAD} batches each of {size / 2**20:.1f} MiB: give more (docker run "
            f"--shm-size {math.ceil(needed / 2**30)}g), --workers {fitting}, or a smaller --batch-size"
        )
