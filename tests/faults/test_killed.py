"""SIGKILL and SIGSTOP: while a checkpoint is written, of a rank, of a loading process (rows 5, 10-12)."""

import functools
import os
import shutil
import signal
from pathlib import Path

import pytest

from moco.runtime.checkpoint import load_tensors, newest_checkpoint
from tests.faults.conftest import Whole
from tests.faults.injections import die_at, gate, pause_before
from tests.faults.processes import (
    assert_same_end,
    children,
    command,
    finish,
    reached,
    resumed,
    saved_steps,
    start,
    status,
    torchrun,
    until,
)


@pytest.mark.slow
def test_killed_in_every_phase_of_a_write(tmp_path: Path, whole: Whole) -> None:
    """Row 5: before each operation on a file of the third and last save, and with half of each file written."""
    flags = {"checkpoint_every": 2, "max_steps": 6}
    listing = tmp_path / "listing"
    listing.mkdir()
    finish(command(listing / "run", **flags), listing, inject=functools.partial(die_at, -1, listing / "list"))
    operations = (listing / "list").read_text().splitlines()
    saves = [number for number, what in enumerate(operations) if what == "rename status.json.part"]
    assert len(saves) == 3
    phases = range(saves[1] + 2, len(operations))  # the folder is synced after the rename
    wanted = {"open", "write", "fsync", "rename", "remove"}
    assert {operations[number].split()[0] for number in phases} == wanted
    for number in phases:
        folder = tmp_path / str(number)
        folder.mkdir()
        run, done = folder / "run", folder / "list"
        training = start(command(run, **flags), folder, inject=functools.partial(die_at, number, done))
        assert training.exit_codes() == [-signal.SIGKILL]
        assert done.read_text().splitlines() == operations[:number]
        before = operations[number]
        is_renamed = operations[:number].count("rename 000000006.safetensors.part") == 1
        newest = newest_checkpoint(run)
        assert newest is not None
        assert (newest[2]["step"], newest[3]) == (6 if is_renamed else 4, []), before
        finish(command(run, **flags), folder)
        assert resumed(run) == [newest[2]["step"]], before
        assert_same_end(run, whole(**flags), 6)
        if not is_renamed:  # what was left half-written is cleared away by the next save
            assert not list((run / "checkpoints").glob("*.part"))
        shutil.rmtree(folder)


def is_resumed(run: Path, times: int) -> bool:
    """Whether a run was resumed that often."""
    return len(resumed(run)) == times


@pytest.mark.slow
def test_a_killed_rank_under_torchrun(tmp_path: Path, whole: Whole) -> None:
    """Row 10: torchrun starts all ranks again, twice, and each time the run goes on from its newest checkpoint."""
    run, flags = tmp_path / "run", {"max_steps": 120, "checkpoint_every": 10}
    options = "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"
    job = torchrun(command(run, **flags), tmp_path / "said", *options)
    for rank, step in ((1, 25), (0, 65)):
        reached(run, step)
        restarts = len(resumed(run))
        os.kill(job.rank(rank), signal.SIGKILL)
        until(functools.partial(is_resumed, run, restarts + 1), "the restart")
    assert job.process.wait(120) == 0, job.text()
    first, second = resumed(run)
    assert 20 <= first < second < 120
    assert_same_end(run, whole(2, **flags), 120)


def test_a_stopped_rank(tmp_path: Path, whole: Whole) -> None:
    """Row 11: after the time-out the other rank names it, with its process and machine; the run can go on."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    inject = functools.partial(pause_before, place, 5, 1)
    training = start(command(run, checkpoint_every=2, timeout=10), tmp_path, ranks=2, inject=inject)
    place.wait()
    training.send(signal.SIGSTOP, 1)
    training.processes[0].join(30)
    assert training.processes[0].exitcode == 1
    stalled = f"1 (process {training.processes[1].pid} on {os.uname().nodename})"
    said = training.text().splitlines()[-1]
    assert said.startswith("moco: error: process 0 of 2 got no answer from the others; no heartbeat from ")
    assert stalled in said
    assert "0 (process" not in said
    training.kill()
    assert saved_steps(run)[0] == 4
    finish(command(run, checkpoint_every=2), tmp_path, ranks=2)
    assert resumed(run) == [4]
    assert_same_end(run, whole(2))


@pytest.mark.slow
def test_a_stopped_rank_under_torchrun(tmp_path: Path) -> None:
    """Row 11: also where the first rank is stopped, which writes the files."""
    run = tmp_path / "run"
    options = "--standalone", "--nproc-per-node", "2"
    job = torchrun(command(run, max_steps=1000, timeout=5), tmp_path / "said", *options)
    reached(run, 3)
    first = job.rank(0)
    os.kill(first, signal.SIGSTOP)
    named = f"moco: error: process 1 of 2 got no answer from the others; no heartbeat from 0 (process {first} on "
    until(lambda: named in job.text(), "the error", seconds=30)
    assert job.process.wait(60) == 1


def test_a_killed_rank(tmp_path: Path) -> None:
    """Where nothing starts it again, the other rank ends at once too and names it."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    training = start(command(run), tmp_path, ranks=2, inject=functools.partial(pause_before, place, 5, 1))
    place.wait()
    training.send(signal.SIGKILL, 1)
    assert training.exit_codes(seconds=30) == [1, -signal.SIGKILL]
    assert f"no heartbeat from 1 (process {training.processes[1].pid} on " in training.text().splitlines()[-1]


def test_a_rank_that_never_comes(tmp_path: Path) -> None:
    """A rank that dies before the others have met it is reported as well."""
    training = start(command(tmp_path / "run", timeout=3), tmp_path, ranks=2)
    training.send(signal.SIGSTOP, 1)
    training.processes[0].join(60)
    assert training.processes[0].exitcode == 1
    assert "moco: error: process 0 of 2 did not meet the others at 127.0.0.1:" in training.text().splitlines()[-1]


def test_a_killed_loading_process(tmp_path: Path, whole: Whole) -> None:
    """Row 12: one clear line that names it, exit code 1; the checkpoint is sound and the run goes on."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    flags = {"checkpoint_every": 2, "workers": 2}
    training = start(command(run, **flags), tmp_path, inject=functools.partial(pause_before, place, 5))
    place.wait()
    own = training.processes[0].pid
    assert own is not None
    loaders = children(own)
    assert len(loaders) == 2
    os.kill(loaders[0], signal.SIGKILL)
    assert training.exit_codes() == [1]
    said = training.text().splitlines()[-1]
    assert said.startswith(f"moco: error: a loading process was lost: DataLoader worker (pid {loaders[0]})")
    assert "Traceback" not in training.text()
    assert saved_steps(run)[0] == 4
    load_tensors(run / "checkpoints" / "000000004.safetensors")
    assert status(run)["state"] == "failed"
    finish(command(run, **flags), tmp_path)
    assert resumed(run) == [4]
    assert_same_end(run, whole())
