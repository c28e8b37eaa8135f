"""Runs a case in both trees side by side, one thread each, and ends what it started whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.same.cases import GIVEN, Case
from benchmarks.same.evidence import Outcome, gather

STOPPED = 75
"""Exit code of a run that was saved after a signal."""
LONGEST = 300.0
"""Seconds after which a command is ended."""
GRACE = 40.0
"""Seconds that a command has to end its own processes; torchrun takes up to 30."""
POLL = 0.01
Value = TypeVar("Value")


@dataclass(frozen=True)
class Side:
    """One of the two trees, and the folder in which its cases run."""

    tree: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        """The caller's, but for what must be equal and this side's own."""
        folders = {"PYTHONPATH": self.tree, "XDG_CACHE_HOME": self.folder / "cache", "TMPDIR": self.folder}
        return {**os.environ, **{name: str(path) for name, path in folders.items()}, "OMP_NUM_THREADS": "1"}

    def require_own_package(self) -> None:
        """Raise RuntimeError where Python would take another `moco` than this tree's."""
        command = [sys.executable, "-c", "import moco; print(moco.__file__)"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=True
        )
        if not Path(done.stdout.strip()).is_relative_to(self.tree):
            raise RuntimeError(f"expected moco from {self.tree}, Python takes {done.stdout.strip()}")


def side_by_side(attempts: Sequence[Generator[None, None, Value]]) -> list[Value]:
    """Go on with every attempt in turn until all have ended, and return how."""
    outcomes: dict[int, Value] = {}
    try:
        while len(outcomes) < len(attempts):
            for number, attempt in enumerate(attempts):
                if number not in outcomes:
                    try:
                        next(attempt)
                    except StopIteration as end:
                        outcomes[number] = end.value
            time.sleep(POLL)
    finally:
        for attempt in attempts:
            attempt.close()
    return [outcomes[number] for number in range(len(attempts))]


def attempt(case: Case, side: Side) -> Generator[None, None, Outcome]:
    """Run a case in one tree: stopped on the way where it says so, then to its end."""
    folder = side.folder / case.name
    folder.mkdir()
    try:
        if case.takes("encoder"):
            shutil.copytree(side.folder.parent / "inputs" / "encoder", folder / GIVEN)
        if case.stop_after is not None:
            error = yield from call(side, case.words, folder, case.ranks, case.stop_after)
            if error:
                return Outcome(error=error)
        error = yield from call(side, case.words, folder, case.ranks)
        if error:
            return Outcome(error=error)
        parts = gather(folder, (folder / "stdout.txt").read_text(encoding="utf-8"))
        missing = [part for part in case.leaves if not parts[part]]
        return Outcome(parts, f"left no {', no '.join(missing)}" if missing else "")
    finally:
        shutil.rmtree(folder)


def call(
    side: Side, words: Sequence[str], folder: Path, ranks: int = 1, stop_after: int | None = None
) -> Generator[None, None, str]:
    """Run `moco WORDS` in a folder, and return what went wrong: nothing where it ended as it should."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    command = [sys.executable, "-m", *launcher, "moco", *words]
    expected = 0 if stop_after is None else STOPPED
    with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
        process = subprocess.Popen(command, cwd=folder, env=side.environment(), stdout=out, stderr=err)
    end = time.monotonic() + LONGEST
    try:
        while process.poll() is None and time.monotonic() < end:
            if stop_after is not None and logged(folder / "run", stop_after):
                process.send_signal(signal.SIGTERM)
                stop_after = None
            yield
    finally:
        end_process(process)
    if process.returncode == expected:
        return ""
    return f"exit code {process.returncode} in place of {expected}: {complaint(folder / 'stderr.txt')}"


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs; torchrun ends its ranks when it is asked, not when it is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def logged(run: Path, step: int) -> bool:
    """Whether a run has logged the loss of a step."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return False
    whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return any(line.get("step", 0) >= step for line in whole if "loss" in line)


def complaint(path: Path) -> str:
    """The line in which moco says what is wrong, else the last line."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if "moco: error:" in line), lines[-1] if lines else "it said nothing")
