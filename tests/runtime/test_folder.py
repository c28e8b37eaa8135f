"""Who holds a run folder, and what its status says, whatever became of the process that wrote it."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.report.runs import read_run
from moco.runtime.folder import LOCK, is_abandoned, lock, read_status

ODD = ["NaN", "1e400", "-Infinity", "1" + "0" * 400]
"""Numbers that are none."""


def write_status(run: Path, **values: object) -> None:
    """As a run writes it."""
    (run / "status.json").write_text(json.dumps(values))


def test_a_run_without_its_process_was_killed(tmp_path: Path) -> None:
    """The lock tells: it is the process's own, and goes with it."""
    write_status(tmp_path, state="running", step=3)
    (tmp_path / "config.json").write_text("{}")
    assert read_status(tmp_path)["state"] == "running", "nobody knows"
    with lock(tmp_path):
        assert not is_abandoned(tmp_path)
        assert read_status(tmp_path)["state"] == "running"
    assert read_status(tmp_path) == {"state": "killed", "step": 3}
    assert read_run(tmp_path).state == "killed"
    write_status(tmp_path, state="done")
    assert read_status(tmp_path) == {"state": "done"}


def test_of_another_machine_nothing_is_known(tmp_path: Path) -> None:
    """Its locks may not be seen here."""
    write_status(tmp_path, state="running")
    (tmp_path / ".lock").write_text("1 on another-machine\n")
    assert read_status(tmp_path)["state"] == "running"


def test_who_looks_refuses_nobody(tmp_path: Path) -> None:
    """A run that begins in the same instant waits for it."""
    lock(tmp_path).close()
    until, looks, held = time.monotonic() + 0.5, list[bool](), 0

    def look() -> None:
        while time.monotonic() < until:
            looks.append(is_abandoned(tmp_path))

    thread = threading.Thread(target=look)
    thread.start()
    while thread.is_alive():
        lock(tmp_path).close()
        held += 1
    thread.join()
    assert min(len(looks), held) > 10


@pytest.mark.parametrize("number", ODD)
def test_a_number_that_is_none_hides_no_state(tmp_path: Path, number: str) -> None:
    """A run that diverged has diverged; only the number is not known."""
    (tmp_path / "status.json").write_text(f'{{"state": "diverged", "step": {number}, "result": {{"loss": {number}}}}}')
    assert read_status(tmp_path) == {"state": "diverged", "step": None, "result": {"loss": None}}


@pytest.mark.parametrize("content", [b"", b'{"state": "div', b"\0" * 50, b"[]", b'{"state": 3}', b"[" * 100_000])
def test_a_damaged_status_hides_no_divergence(tmp_path: Path, content: bytes) -> None:
    """The log says it too, where the run did not go on since."""
    (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path) == {}
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"event": "resume", "step": 0}\n{"event": "diverged", "step": 7}\n{"half')
    assert read_status(tmp_path) == {"state": "diverged", "step": 7}
    log.write_text('{"event": "diverged", "step": 7}\n{"event": "resume", "step": 5}\n')
    assert read_status(tmp_path) == {}


def test_a_lock_that_is_a_pipe(tmp_path: Path) -> None:
    """It is named; nothing waits for it."""
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(BadInputError, match=r"\.lock: expected a regular file"):
        lock(tmp_path)
