"""A run folder: which process holds it, and what its status says."""

import contextlib
import errno
import json
import math
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from moco.errors import BadInputError
from moco.runtime.files import open_bounded, read_bounded, require_regular
from moco.runtime.records import read_records

if sys.platform != "win32":
    import fcntl

RUNNING, KILLED, FAILED = "running", "killed", "failed"
BROKEN_OFF = {KILLED: "was killed (or its machine failed)", FAILED: "failed"}
"""How a run that did not finish is described, by its state."""
LOCK = ".lock"
TRIES, PAUSE = 40, 0.02
"""How often, and after how many seconds, the lock is tried: a reader that looks who has it holds it for an instant.

Many short waits find a free instant even beside a reader that looks without pause; three longer ones did not always.
"""


def lock(run: Path) -> TextIO:
    """Hold the run folder until the file is closed. Raises BadInputError naming the process that holds it.

    It raises one too where the lock, or its folder, cannot be made or is no regular file.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        require_regular(run / LOCK)
        file = (run / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"--out {run}: cannot be written ({error.strerror}): give a folder that can") from error
    if not _take(file):
        with file:
            file.seek(0)
            holder = file.read().strip()
        raise BadInputError(f"--out {run}: process {holder} is writing it: wait, or give another")
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=file.close)  # a loading process must not hold it when this one is killed
    try:
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    except OSError as error:
        raise OSError(error.errno, f"cannot write ({error.strerror or error})", str(run / LOCK)) from error
    return file


def require_run_folder(run: Path) -> None:
    """Raise OSError where a run folder that is held was removed or moved: its lock is gone from there."""
    if not (run / LOCK).exists():
        gone = "the run folder was removed or moved during the run"
        do = "restore it and run the same command, or start again"
        raise FileNotFoundError(errno.ENOENT, f"{gone}: {do}", str(run))


def _take(file: TextIO) -> bool:
    if sys.platform == "win32":
        return True
    for tries in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if tries < TRIES - 1:
                time.sleep(PAUSE)
        else:
            return True
    return False


def is_abandoned(run: Path) -> bool:
    """Tell whether the process that last wrote the run is known to be gone; False where it was on another machine."""
    if sys.platform == "win32":
        return False
    try:
        with open_bounded(run / LOCK) as file:
            holder = file.read().decode("utf-8", "replace").strip()
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (OSError, BadInputError):
        return False
    return holder.endswith(f" on {socket.gethostname()}")


def read_status(run: Path) -> dict[str, Any]:
    """Read what `status.json` of a run says; empty where there is none, or a damaged one.

    A number that is none is None. A run that says it is running, and whose process is gone, is `killed`. Where the
    file says nothing and the log ends with a divergence, the run diverged.
    """
    status: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError, BadInputError):
        found = json.loads(
            read_bounded(run / "status.json"), parse_constant=lambda name: None, parse_float=_finite, parse_int=_short
        )
        status = found if isinstance(found, dict) else {}
    if not isinstance(status.get("state"), str):
        status = _last_divergence(run)
    if status.get("state") == RUNNING and is_abandoned(run):
        status["state"] = KILLED
    return status


def _last_divergence(run: Path) -> dict[str, Any]:
    """Read from the log that the run diverged; empty where it did not, or went on."""
    last: dict[str, Any] = {}
    with contextlib.suppress(OSError, BadInputError):
        for values in read_records(run / "metrics.jsonl"):
            last = values if "event" in values else last
    return {"state": "diverged", "step": last.get("step")} if last.get("event") == "diverged" else {}


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _short(text: str) -> int | None:
    return int(text) if len(text) <= sys.float_info.max_10_exp else None
