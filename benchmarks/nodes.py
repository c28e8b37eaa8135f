"""Two nodes of one rank each on loopback, of which one is killed and started again: the time that is lost.

    python -m benchmarks.nodes

from the root of the repository. A node is a torchrun with its rank; they meet at 127.0.0.1 by c10d. The first holds the
meeting point: where it is lost the other ends too, and both are started again, as a scheduler would.
"""

import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.processes import (
    Torchrun,
    assert_same_end,
    command,
    finish,
    free_port,
    kill_all,
    lines,
    reached,
    resumed,
    torchrun,
    until,
)

STEPS, CHECKPOINT_EVERY, FIRST, SECOND = 150, 10, 30, 80
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Where rounds share a store, the node that stays tells its address in the first only: a new one waits in vain."""


def node(number: int, port: int, folder: Path) -> Torchrun:
    """Start a node, again or for the first time."""
    options = (
        "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "127.0.0.1",
        "--rdzv-backend", "c10d", "--rdzv-id", "loopback", "--rdzv-endpoint", f"127.0.0.1:{port}",
    )  # fmt: skip
    said = folder / f"node-{number}-{time.monotonic_ns()}.txt"
    return torchrun(command(folder / "run", max_steps=STEPS, checkpoint_every=CHECKPOINT_EVERY), said, *options)


def last_step(run: Path) -> int:
    """The last step that a run logged."""
    return max((int(line["step"]) for line in lines(run, "loss")), default=0)


def lost(run: Path, began: float, step: int, resumes: int) -> tuple[float, float, int]:
    """Seconds until the run was resumed, and until it had made the lost steps again; the step it went on at."""
    until(lambda: len(resumed(run)) > resumes, "the run to be resumed", seconds=300)
    again = time.monotonic() - began
    reached(run, step + 1)
    return again, time.monotonic() - began, resumed(run)[-1]


def main() -> None:
    """Kill the second node, then the first, compare with an undisturbed run and print the times."""
    os.environ[OWN_STORE] = "1"
    table = Table("killed", "at step", "resumed at", "resumed after", "back at that step after")
    with tempfile.TemporaryDirectory() as temporary:
        folder, port = Path(temporary), free_port()
        run, whole = folder / "run", folder / "whole"
        finish(command(whole, max_steps=STEPS, checkpoint_every=CHECKPOINT_EVERY), folder, ranks=2)
        try:
            nodes = [node(0, port, folder)]
            until(lambda: _listens(port), "the meeting point")
            nodes.append(node(1, port, folder))
            for victim, step in ((1, FIRST), (0, SECOND)):
                resumes = len(resumed(run))
                reached(run, step)
                began = time.monotonic()
                nodes[victim].kill()
                reached_step = last_step(run)
                if victim == 0:  # what it held is gone: the other node ends, and a scheduler starts both
                    nodes[1].process.wait(120)
                    nodes[0] = node(0, port, folder)
                    until(lambda: _listens(port), "the meeting point")
                nodes[1] = node(1, port, folder)
                again, back, at = lost(run, began, reached_step, resumes)
                names = ("both, the first being lost", "the second")
                table.add_row(names[victim], str(reached_step), str(at), f"{again:.1f} s", f"{back:.1f} s")
            codes = [running.process.wait(300) for running in nodes]
            assert codes == [0, 0], "\n".join(running.text() for running in nodes)
            assert_same_end(run, whole, STEPS)
        finally:
            kill_all()
    console = Console(width=120)
    console.print(table)
    console.print("the encoder is identical to that of an undisturbed run")


def _listens(port: int) -> bool:
    """Whether somebody listens on a port, as the kernel lists it."""
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    found = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return any(int(own.split(":")[1], 16) == port and state == "0A" for _, own, _, state, *_ in found)


if __name__ == "__main__":
    main()
