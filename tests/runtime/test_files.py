"""Two writers of one file never meet, what a killed one left goes, and a read ends."""

import json
import os
import signal
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moco.errors import BadInputError
from moco.evaluation.tables import Table, write_features
from moco.runtime import files
from moco.runtime.files import read_bounded, replace_file, require_file_name, written_aside
from tests.faults.processes import CONTEXT

WRITES = 20
LENGTH = 50_000


def write_text(path: Path, value: int) -> None:
    """A file whose every part says which writer it is of."""
    replace_file(path, json.dumps([value] * LENGTH).encode())


def write_arrays(path: Path, value: int) -> None:
    """The same as arrays."""
    write_features(path, Table(np.full(LENGTH, value), ["a"], ["train"], np.zeros(1, np.int64), ("a",)))


def read_text(path: Path) -> set[int]:
    """The writers whose parts a file holds."""
    return set(json.loads(path.read_bytes()))


def read_arrays(path: Path) -> set[int]:
    """The same of arrays."""
    with np.load(path) as arrays:
        return set(arrays["features"].tolist())


def write_often(write: Callable[[Path, int], None], path: Path, value: int) -> None:
    """One of two writers; its exit code says whether a write failed."""
    for _ in range(WRITES):
        write(path, value)


@pytest.mark.parametrize(("write", "read"), [(write_text, read_text), (write_arrays, read_arrays)])
def test_two_writers_of_one_file(
    tmp_path: Path, write: Callable[[Path, int], None], read: Callable[[Path], set[int]]
) -> None:
    """No write fails, a reader always finds the whole of one, and nothing is left beside it."""
    path = tmp_path / "result.npz"
    write(path, 0)
    writers = [CONTEXT.Process(target=write_often, args=(write, path, value)) for value in (0, 1)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(read(path)) == 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["result.npz"]


def test_another_writer_may_remove_a_new_file_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes it for left over, and holds its lock while it removes it; then there is a next one."""
    once, removed = files._lock, list[Path]()

    def lock(path: Path) -> int | None:
        if removed:
            return once(path)
        path.unlink()
        removed.append(path)
        return None

    monkeypatch.setattr(files, "_lock", lock)
    replace_file(tmp_path / "result.json", b"new")
    assert (tmp_path / "result.json").read_bytes() == b"new"
    assert len(removed) == 1


def test_a_user_s_files_beside_it_stay(tmp_path: Path) -> None:
    """Also those that are called like what is written aside, and those of writers of other files."""
    theirs = ["result.part", "result.json.part", "result.json.backup.part", "other.json.0a1b2c3d.part"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("all of it")
    replace_file(tmp_path / "result.json", b"new")
    with written_aside(tmp_path / "result", folder=True) as folder:
        folder.replace(tmp_path / "result")
    for name in theirs:
        assert (tmp_path / name / "thesis.txt").read_text() == "all of it"


def hang_while_writing(path: Path, folder: bool) -> None:
    """A writer that never comes to its end."""
    with written_aside(path, folder=folder) as partial:
        (partial / "half" if folder else partial).write_bytes(b"half")
        time.sleep(60)


def fail_while_writing(path: Path, folder: bool) -> None:
    """A writer that fails half-way."""
    with written_aside(path, folder=folder) as partial:
        (partial / "half" if folder else partial).write_bytes(b"half")
        raise ValueError("no")


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_writer_left(tmp_path: Path, folder: bool) -> None:
    """It stays as long as its writer lives, and goes with the next write after that."""
    path = tmp_path / "result.json"
    writer = CONTEXT.Process(target=hang_while_writing, args=(path, folder))
    writer.start()
    while not any(half.read_bytes() for half in tmp_path.glob("*.part/half" if folder else "*.part")):
        time.sleep(0.01)  # until something is written it may not be locked yet
    replace_file(path, b"first")
    assert len(list(tmp_path.glob("*.part"))) == 1
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    replace_file(path, b"second")
    assert os.listdir(tmp_path) == ["result.json"]
    assert path.read_bytes() == b"second"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither a file nor a folder, and the old file stays."""
    path = tmp_path / "result"
    replace_file(path, b"old")
    for folder in (False, True):
        with pytest.raises(ValueError, match="no"):
            fail_while_writing(path, folder)
    assert os.listdir(tmp_path) == ["result"]
    assert path.read_bytes() == b"old"


def test_a_long_name(tmp_path: Path) -> None:
    """As long as the file system takes, in characters of three bytes."""
    path = tmp_path / ("\u20ac" * 85)
    replace_file(path, b"x")
    assert path.read_bytes() == b"x"


def test_reads_that_would_not_end(tmp_path: Path) -> None:
    """A pipe without a writer, a device, a folder, and more bytes than a file of its kind has."""
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(BadInputError, match="expected a regular file"):
            read_bounded(path)
    with pytest.raises(BadInputError, match="1099511627776 bytes, expected at most"):
        read_bounded(large)
    assert read_bounded(Path("/proc/self/comm"))  # its size is said to be 0
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "missing")
    with pytest.raises(BadInputError, match="that is not a regular file"):
        require_file_name("--out", pipe)


def test_a_bound_takes_no_memory(tmp_path: Path) -> None:
    """A small file is read by its own size, whatever the largest is; one whose size is said to be 0 is read, too."""
    (tmp_path / "x").write_bytes(b"12345")
    tracemalloc.start()
    assert read_bounded(tmp_path / "x", 4 << 30) == b"12345"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert read_bounded(Path("/proc/self/status")).startswith(b"Name:")
    with pytest.raises(BadInputError, match="has more than 3 bytes"):
        read_bounded(Path("/proc/self/status"), 3)
