"""Processes that make items ahead: they end with their parent and with the loader, and say what they cannot do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moco.data.ahead import load_ahead


def test_what_cannot_be_handed_over_ends_the_wait() -> None:
    """As with too little shared memory: the process answers with what to set, and nobody waits for ever."""
    with pytest.raises(ChildProcessError, match=r"cannot pass on its images .*--shm-size 2g.*TMPDIR"):
        next(load_ahead(lambda item: lambda: item, [1, 2], workers=1))


STUCK = """
import os, time
from moco.data.ahead import load_ahead
def make(item):
    if item:
        print(os.getpid(), flush=True)
        time.sleep(1000)
    return item
"""


def test_stuck_loading_processes_end_with_the_loader() -> None:
    """Two that wait for ever, as for a file of a network that is gone, hold up neither an error nor the end."""
    code = STUCK + "loaded = load_ahead(make, [0, 1, 2], workers=2)\nnext(loaded)\ntime.sleep(1)\nraise OSError('end')"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "OSError: end" in done.stderr
    assert time.monotonic() - begun < 40
    assert not any(_is_alive(int(number)) for number in done.stdout.split())


@pytest.mark.parametrize("stopped", [False, True])
def test_loading_processes_do_not_outlive_their_parent(stopped: bool) -> None:
    """SIGKILL of the parent ends one that waits for ever, and one that was stopped."""
    code = STUCK + "list(load_ahead(make, [1], workers=1))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        if stopped:
            os.kill(number, signal.SIGSTOP)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while _is_alive(number) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_alive(number)


def _is_alive(process: int) -> bool:
    """Whether there is such a process, which may have ended and wait for its parent."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
