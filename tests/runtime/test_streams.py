"""Standard output and error that cannot be written to: what is printed is dropped, and the work goes on."""

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from moco.cli import main
from moco.runtime.signals import StopRequest
from moco.runtime.streams import LOADER, forgive, speak_in_lines, why_lost


def stream(number: int, *, buffered: bool = True) -> io.TextIOWrapper:
    """As Python opens standard output, also with PYTHONUNBUFFERED, which containers often set."""
    if buffered:
        return open(number, "w", encoding="ascii", closefd=False)
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="ascii", write_through=True)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def test_what_is_printed_comes_whole_and_at_once(pipe: tuple[int, int]) -> None:
    """More than a pipe takes at once, and letters that the encoding does not have."""
    out, received = forgive(stream(pipe[1])), list[bytes]()
    text = "caf\u00e9 " * 40_000
    reader = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(pipe[0], 1 << 16), b"")))
    reader.start()
    print(text, file=out)
    os.close(pipe[1])
    reader.join()
    assert b"".join(received) == (text.replace("\u00e9", "\\xe9") + "\n").encode()
    assert forgive(out) is out
    assert why_lost(out) == ""


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_leaves(pipe: tuple[int, int], buffered: bool) -> None:
    """It wants no more, which is no fault."""
    os.close(pipe[0])
    out = forgive(stream(pipe[1], buffered=buffered))
    for _ in range(3):
        print("hello", file=out)
    assert why_lost(out) == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The work is done, and what was printed is said to be lost."""
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", stream(full.fileno()))
        assert main(["check", "--data", "digits", "--out", str(tmp_path / "x.csv")]) == 1
    assert (tmp_path / "x.csv").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "moco: error: standard output cannot be written (No space left on device): what was printed is lost"


def test_nobody_reads(pipe: tuple[int, int]) -> None:
    """A full pipe is waited for (`| less`), and after a request to stop no more."""
    out, done = forgive(stream(pipe[1])), threading.Event()
    os.set_blocking(pipe[1], False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe[1], bytes(1 << 12))
    os.set_blocking(pipe[1], True)

    def talk() -> None:
        print("hello", file=out)
        done.set()

    with StopRequest():  # a request of an earlier test is forgotten
        threading.Thread(target=talk, daemon=True).start()
        assert not done.wait(0.7)
        signal.raise_signal(signal.SIGTERM)
    assert done.wait(10)


def test_streams_that_are_closed() -> None:
    """Their numbers are taken, so that no file gets them."""
    program = (
        "import os, sys\nfrom moco.runtime.streams import open_closed_streams\nopen_closed_streams()\n"
        "print('x'); print('y', file=sys.stderr)\nos._exit(0 if os.open(sys.executable, 0) > 2 else 1)\n"
    )
    closed = f'exec {sys.executable} -c "$1" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed, "sh", program], check=False).returncode == 0


def test_what_fails_while_it_is_removed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is said of a loader of torch that half began: the error that stopped it ends the command."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    speak_in_lines()

    class Held:
        def __del__(self) -> None:
            raise AttributeError("no attribute 'x'")

    Held()
    gc.collect()
    said = capsys.readouterr().err
    assert said.startswith("moco: warning: ")
    assert said.endswith(": no attribute 'x'\n")
    assert said.count("\n") == 1
    monkeypatch.setattr(Held.__del__, "__module__", LOADER)
    Held()
    gc.collect()
    assert capsys.readouterr().err == ""
