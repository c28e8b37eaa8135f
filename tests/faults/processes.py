"""Trainings in processes of their own, which can be stopped, killed and started again, and what their folders say.

A process is forked from one that has imported everything, which saves four seconds, and then does what `python -m moco`
does; it leads a process group of its own. `torchrun` starts the real thing.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import moco
from moco.cli import main
from moco.runtime.checkpoint import checkpoint_path, checkpoints, load_tensors

Value = TypeVar("Value")
Inject = Callable[[], None]
"""What a process does to itself before it trains; it must be picklable."""
Program = Callable[[], int | None]
"""What a process does, and its exit code; it must be picklable."""

ROOT = Path(moco.__file__).parents[1]
PATIENCE = 300.0
"""Seconds after which something that should have happened did not."""
STEPS = 12
FLAGS: dict[str, Any] = {
    "arch": "resnet10-w4", "dictionary": "queue", "image-size": 12, "view-size": 12, "batch-size": 32, "queue-size": 80,
    "max-steps": STEPS, "bn-groups": 4, "log-every": 1, "checkpoint-every": 0, "knn-every": 0, "threads": 1,
    "precision": "fp32", "device": "cpu", "augment": "cifar", "base-lr": 0.06,
    "whiten": 160,
}  # fmt: skip

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.shallow",
        "moco.commands.pretrain",
        "pytest",
        "sklearn.datasets",
        "torch._dynamo",
        "torch.utils.tensorboard.writer",
        "tests.faults.injections",
        "tests.faults.warm",
    ]
)
_running: list["Training | Torchrun"] = []


def command(out: Path, **flags: object) -> list[str]:
    """A small training on the digits as a command line, flags written with underscores."""
    values = FLAGS | {name.replace("_", "-"): value for name, value in flags.items()}
    given = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return ["pretrain", "quick", "--data", "digits", "--out", str(out), *given]


@dataclass
class Training:
    """The processes of one training, by rank, and the files that hold what they say."""

    processes: list[ForkServerProcess]
    said: list[Path]

    def exit_codes(self, seconds: float = PATIENCE) -> list[int | None]:
        """Wait for all and tell how each ended: None for one that still goes on."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def text(self, rank: int = 0) -> str:
        """What a rank said on both of its outputs; nothing where it has not begun."""
        if not self.said[rank].exists():
            return ""
        return self.said[rank].read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals, rank: int = 0, *, group: bool = False) -> None:
        """Signal one rank, or with `group` its loading processes too."""
        pid = self.processes[rank].pid
        assert pid is not None
        (os.killpg if group else os.kill)(pid, number)

    def kill(self) -> None:
        """Kill every process that is left."""
        for process in self.processes:
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()


def start(arguments: Sequence[str], folder: Path, *, ranks: int = 1, inject: Inject | None = None) -> Training:
    """Begin `moco ARGUMENTS` in as many processes as there are ranks; what they say goes into files of `folder`."""
    return start_program(functools.partial(main, list(arguments)), folder, ranks=ranks, inject=inject)


def start_program(program: Program, folder: Path, *, ranks: int, inject: Inject | None = None) -> Training:
    """Begin a program in as many processes as there are ranks; what they say goes into files of `folder`."""
    port = str(free_port())
    training = Training([], [folder / f"said-{rank}.txt" for rank in range(ranks)])
    _running.append(training)
    for rank in range(ranks):
        environment = {
            "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        process = CONTEXT.Process(target=_run, args=(program, training.said[rank], environment, inject))
        process.start()
        training.processes.append(process)
    return training


def finish(arguments: Sequence[str], folder: Path, *, ranks: int = 1, inject: Inject | None = None) -> Training:
    """Run `moco ARGUMENTS` to its end, which must be a good one."""
    return ended_well(start(arguments, folder, ranks=ranks, inject=inject))


def ended_well(training: Training) -> Training:
    """Wait for the end of all its processes, which must be a good one."""
    ranks = len(training.processes)
    assert training.exit_codes() == [0] * ranks, "\n".join(training.text(rank) for rank in range(ranks))
    return training


def _run(program: Program, said: Path, environment: dict[str, str], inject: Inject | None) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as in an ordinary process
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    if inject is not None:
        inject()
    sys.exit(program())


@dataclass
class Torchrun:
    """A command under torchrun, and the file that holds what all of its processes say."""

    process: subprocess.Popen[bytes]
    said: Path

    def text(self) -> str:
        """What was said."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    def rank(self, rank: int) -> int:
        """The process of a rank."""
        return until(lambda: ranks_of(self.process.pid).get(rank), f"process of rank {rank}")

    def kill(self) -> None:
        """Kill the whole node: torchrun and what it started."""
        for pid in (*(pid for child in children(self.process.pid) for pid in (*children(child), child)),):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def torchrun(arguments: Sequence[str], said: Path, *options: str) -> Torchrun:
    """Begin `torchrun OPTIONS -m moco ARGUMENTS`, which knows the tests' shallow networks too."""
    line = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "tests.shallow", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with said.open("wb") as file:
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    running = Torchrun(process, said)
    _running.append(running)
    return running


def kill_all() -> None:
    """End what a test has left running."""
    while _running:
        _running.pop().kill()


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ranks_of(pid: int) -> dict[int, int]:
    """The processes that a torchrun started, by rank."""
    found: dict[int, int] = {}
    for child in children(pid):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found |= {int(text[5:]): child for text in variables if text.startswith(b"RANK=")}
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Value | None], what: str, seconds: float = PATIENCE) -> Value:
    """Wait until something is true and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return value


def lines(run: Path, key: str) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics that have a key."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return [line for line in found if key in line]


def reached(run: Path, step: int) -> None:
    """Wait until a run has logged a step."""
    until(lambda: any(line["step"] >= step for line in lines(run, "loss")), f"step {step} of {run}")


def resumed(run: Path) -> list[int]:
    """The steps that a run was resumed at."""
    return [line["step"] for line in lines(run, "event") if line["event"] == "resume"]


def status(run: Path) -> dict[str, Any]:
    """What a run's status says."""
    content: dict[str, Any] = json.loads((run / "status.json").read_text())
    return content


def saved_steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, newest first."""
    return [int(path.stem) for path in checkpoints(run)]


def final_state(run: Path, steps: int = STEPS) -> dict[str, Tensor]:
    """All that a run ended with: every tensor of its last checkpoint, and the encoder's."""
    encoder = load_tensors(run / "encoder.safetensors")[0]
    return load_tensors(checkpoint_path(run, steps))[0] | {f"encoder.{name}": value for name, value in encoder.items()}


def assert_same_end(run: Path, other: Path, steps: int = STEPS) -> None:
    """Two runs ended with the same bits: weights, f_k, queue or bank, optimiser, random state, the encoder's file."""
    found, expected = final_state(run, steps), final_state(other, steps)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert (run / "encoder.safetensors").read_bytes() == (other / "encoder.safetensors").read_bytes()
