"""What a process does to itself before it trains: it will pause, die or go wrong at a chosen place."""

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from unittest.mock import patch

from moco.core.encoder import Encoder
from moco.core.loss import Contrast
from tests.faults.processes import until


@dataclass(frozen=True)
class Gate:
    """A place where a process waits until the test lets it go on."""

    folder: Path

    def stand(self) -> None:
        """Wait here, for ever if need be; signals are handled meanwhile."""
        (self.folder / "reached").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.005)

    def wait(self) -> None:
        """Wait until the process stands at the gate."""
        until((self.folder / "reached").exists, f"the gate {self.folder}")

    def open(self) -> None:
        """Let it go on."""
        (self.folder / "open").touch()


def gate(folder: Path) -> Gate:
    """A new gate."""
    folder.mkdir()
    return Gate(folder)


def each(injects: Sequence[Callable[[], None]]) -> None:
    """Several of these."""
    for inject in injects:
        inject()


def is_rank(rank: int) -> bool:
    """Whether this process is of a rank."""
    return int(os.environ["RANK"]) == rank


def pause_before(place: Gate, step: int, rank: int = 0) -> None:
    """Pause before a step, whose rate the loop asks for first."""
    from moco.runtime.schedule import Schedule

    real = Schedule.__call__

    def rate(self: Schedule, now: int) -> float:
        if now == step and is_rank(rank):
            place.stand()
        return real(self, now)

    patch.object(Schedule, "__call__", rate).start()


def pause_in_batch(place: Gate, step: int, rank: int = 0) -> None:
    """Pause while a batch is made."""
    from moco.data.loader import ViewBatches

    real = ViewBatches.__getitem__

    def make(self: ViewBatches, now: int) -> Any:
        if now == step and is_rank(rank):
            place.stand()
        return real(self, now)

    patch.object(ViewBatches, "__getitem__", make).start()


def stop_loading(place: Gate, step: int) -> None:
    """Let the process that makes a batch stop itself, as a debugger or a cluster's scheduler stops it."""
    from moco.data.loader import ViewBatches

    real = ViewBatches.__getitem__

    def make(self: ViewBatches, now: int) -> Any:
        if now == step:
            (place.folder / "reached").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(self, now)

    patch.object(ViewBatches, "__getitem__", make).start()


def pause_in_monitor(place: Gate, look: int = 0) -> None:
    """Pause while the encoder is evaluated, in the given look."""
    looks = iter(range(1 << 30))

    def monitor(encoder: Encoder) -> dict[str, float]:
        if next(looks) == look:
            place.stand()
        return {"knn_top1": 0.0}

    patch("moco.commands.pretrain.build_monitor", lambda *_: monitor).start()


def pause_in_save(place: Gate, step: int) -> None:
    """Pause with the checkpoint of a step written aside, but not yet renamed."""
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == f"{step:09d}.safetensors":
            place.stand()
        real(source, target)

    patch.object(os, "replace", replace).start()


def limit_files(size: int) -> None:
    """Let no file grow beyond a size: what is written further fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def poison(rank: int, step: int, what: str) -> None:
    """Make the loss, or only its gradient, no number on one rank at a step (counted from 0)."""
    from moco.core.loss import info_nce as real

    calls = iter(range(1 << 30))

    def info_nce(*arguments: Any, **named: Any) -> Contrast:
        contrast = real(*arguments, **named)
        if next(calls) == step and is_rank(rank):
            zero = contrast.loss - contrast.loss.detach()
            wrong = {"nan": zero * float("nan"), "inf": zero + float("inf"), "gradient": zero.sqrt()}[what]
            return contrast._replace(loss=contrast.loss + wrong)
        return contrast

    patch("moco.pretraining.prepare.info_nce", info_nce).start()


def die_at(operation: int, log: Path) -> None:
    """Die by SIGKILL before the given operation on a file while saving, counted from 0; list those done before it."""
    number = iter(range(1 << 30))

    def before(what: str, path: object) -> None:
        if not threading.current_thread().name.startswith("checkpoint"):
            return
        if next(number) == operation:
            os.kill(os.getpid(), signal.SIGKILL)
        with real_open(log, "a") as file:
            file.write(f"{what} {re.sub(r'[.][0-9a-f]{8}[.]part$', '.part', Path(str(path)).name)}\n")

    real_open: Callable[..., Any] = Path.open
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode != "wb":
            return real_open(path, mode, *rest, **named)
        before("open", path)
        return _Halved(real_open(path, "wb", buffering=0), path, before)

    def replaced(source: Path, target: Path) -> None:
        before("rename", source)
        replace(source, target)

    def unlinked(path: Path) -> None:
        before("remove", path)
        unlink(path)

    def synced(descriptor: int) -> None:
        before("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    patch.object(Path, "open", opened).start()
    patch.multiple(os, replace=replaced, unlink=unlinked, fsync=synced).start()


class _Halved:
    """A file that is written in two halves."""

    def __init__(self, file: BinaryIO, path: Path, before: Callable[[str, object], None]) -> None:
        self.file, self.path, self.before = file, path, before
        self.flush, self.fileno = file.flush, file.fileno

    def __enter__(self) -> "_Halved":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        """Write all of the content."""
        self.file.write(content[: len(content) // 2])
        self.before("write the rest of", self.path)
        self.file.write(content[len(content) // 2 :])
