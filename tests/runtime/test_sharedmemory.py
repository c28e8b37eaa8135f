"""Too little shared memory is refused before a process is started, with what to set."""

from collections import namedtuple
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.runtime import sharedmemory
from moco.runtime.sharedmemory import require_shared_memory

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """64 MiB, as docker gives."""
    monkeypatch.setattr(sharedmemory, "FOLDER", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))


def test_too_little_is_refused() -> None:
    """The message has what there is, what is needed, and three things of which one is to be changed."""
    said = r"64 MiB of shared memory free, and 16 .* need 2423 MiB .*--shm-size 3g\), --workers 0, or a smaller --batch"
    with pytest.raises(BadInputError, match=said):
        require_shared_memory(77_000_000, 16, 1000)
    with pytest.raises(BadInputError, match=r"--workers 2, or"):
        require_shared_memory(12 << 20, 4, 1000)
    require_shared_memory(12 << 20, 2, 1000)


def test_what_fits_or_is_not_used_is_not_refused() -> None:
    """No processes, batches that are few, or nothing to hand over; one of each more is."""
    require_shared_memory(1 << 30, 0, 1000)
    require_shared_memory(30 << 20, 16, 2)
    require_shared_memory(0, 16, 1000)
    for size, workers, batches in ((1 << 30, 1, 1000), (30 << 20, 16, 3)):
        with pytest.raises(BadInputError, match="shared memory free"):
            require_shared_memory(size, workers, batches)
