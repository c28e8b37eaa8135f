"""Processes that make items ahead: they end with their parent and with the loader, and say what they cannot do."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.data.ahead import load_ahead
from moco.errors import BadInputError
from tests.faults.processes import ROOT, start_program, until


def test_what_cannot_be_handed_over_ends_the_wait() -> None:
    """As with too little shared memory: the process answers with what to set, and nobody waits for ever."""
    with pytest.raises(ChildProcessError, match=r"cannot pass on its images .*--shm-size 2g.*TMPDIR"):
        next(load_ahead(lambda item: lambda: item, [1, 2], workers=1))


def refuse(item: int) -> int:
    """Raise what an image that cannot be read raises."""
    raise BadInputError(f"{item} cannot be read")


def break_off() -> None:
    """Let an error come out of the loading, of which one of two processes has nothing to do."""
    with pytest.raises(BadInputError, match="1 cannot be read"):
        list(load_ahead(refuse, [1], workers=2))


def abandon() -> None:
    """Leave the loading in its middle to an error that is in a cycle with the frame that loads."""
    loaded = load_ahead(abs, [1, 2, 3], workers=2)
    try:
        raise ValueError(f"{next(loaded)} is enough")
    except ValueError as error:
        kept = error
    assert kept.__traceback__ is not None


def open_too_many(item: int) -> int:
    """Fail as where a process may open no further file."""
    raise OSError(errno.EMFILE, "Too many open files", str(item))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_system_is_raised_as_it_is(workers: int) -> None:
    """Not as the traceback of a loading process."""
    with pytest.raises(OSError, match=r"^\[Errno 24\] Too many open files: '7'$"):
        next(load_ahead(open_too_many, [7], workers=workers))


@pytest.mark.parametrize("leave", [break_off, abandon])
def test_nothing_is_closed_twice(
    leave: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where an error ends the loading: the collector would close the pipes, and then the loader, that is other files.

    It printed a traceback for each image that could not be read, and files opened later were closed.
    """
    failed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: failed.append(found.exc_value))
    monkeypatch.setattr(threading, "excepthook", lambda found: failed.append(found.exc_value))
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for _ in range(2):
        leave()
        gc.collect()
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > len(before) and time.monotonic() < until:  # torch's threads close them
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    assert failed == []
    assert "Traceback" not in capfd.readouterr().err


def stick(item: int) -> int:
    """Say which process this is, and wait for ever where there is something to make."""
    if item:
        print(os.getpid(), flush=True)
        time.sleep(1000)
    return item


def test_stuck_loading_processes_end_with_the_loader() -> None:
    """Two that wait for ever, as for a file of a network that is gone, hold up neither an error nor the end.

    In a process of its own: one that is forked ends otherwise, without what is registered for the end.
    """
    code = (
        "import os, time\nfrom moco.data.ahead import load_ahead\n"
        "def stick(item):\n    if item:\n        print(os.getpid(), flush=True)\n        time.sleep(1000)\n"
        "    return item\n"
        "loaded = load_ahead(stick, [0, 1, 2], workers=2)\nnext(loaded)\ntime.sleep(1)\nraise OSError('end')"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "OSError: end" in done.stderr
    assert time.monotonic() - begun < 40
    assert not any(_is_alive(int(number)) for number in done.stdout.split())


def wait_for_ever() -> None:
    """Load what never comes."""
    list(load_ahead(stick, [1], workers=1))


@pytest.mark.parametrize("stopped", [False, True])
def test_loading_processes_do_not_outlive_their_parent(tmp_path: Path, stopped: bool) -> None:
    """SIGKILL of the parent ends one that waits for ever, and one that was stopped."""
    training = start_program(wait_for_ever, tmp_path, ranks=1)
    number = int(until(lambda: training.text().strip(), "the number of the loading process"))
    if stopped:
        os.kill(number, signal.SIGSTOP)
    training.send(signal.SIGKILL)
    end = time.monotonic() + 10
    while _is_alive(number) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _is_alive(number)


def _is_alive(process: int) -> bool:
    """Whether there is such a process, which may have ended and wait for its parent."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
