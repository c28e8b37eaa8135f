"""Full disks, folders that cannot be written, damaged files, two runs in one folder (rows 13-16, 19, 20)."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.faults.conftest import Whole
from tests.faults.injections import gate, limit_files, pause_before
from tests.faults.processes import (
    PATIENCE,
    STEPS,
    assert_same_end,
    children,
    command,
    final_state,
    finish,
    lines,
    resumed,
    saved_steps,
    start,
    status,
    until,
)

Killed = Callable[..., None]
"""(step, run, checkpoint_every=N): put the folder of a run there that was killed before a step."""


@pytest.fixture(scope="module")
def killed_before(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Runs that were killed when everything due until then was written; each is made once, and copied."""
    made: dict[tuple[int, int], Path] = {}

    def kill(step: int, checkpoint_every: int) -> Path:
        run = tmp_path_factory.mktemp("killed") / "run"
        place = gate(run.parent / "gate")
        inject = functools.partial(pause_before, place, step)
        training = start(command(run, checkpoint_every=checkpoint_every), run.parent, inject=inject)
        place.wait()
        written(run, step - step % checkpoint_every)
        training.kill()
        return run

    def put(step: int, run: Path, *, checkpoint_every: int) -> None:
        key = (step, checkpoint_every)
        if key not in made:
            made[key] = kill(*key)
        shutil.copytree(made[key], run)

    return put


def written(run: Path, step: int) -> None:
    """Wait until the checkpoint of a step and all that follows it are written."""
    until(lambda: status(run)["step"] == step, f"the checkpoint of step {step}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four MiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root; the limit on file size below needs nobody")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


# --- writing --------------------------------------------------------------------------------------------------------


def assert_not_written(said: str, path: Path, reason: str, size: int) -> None:
    """The last line names the file, its size and the reason."""
    last = said.splitlines()[-1]
    assert last.startswith("moco: error: ")
    assert str(path) in last
    assert reason in last
    written = int(last.split("cannot write ")[1].split()[0])
    assert abs(written - size) < 1000


def test_a_file_that_may_not_grow(tmp_path: Path, whole: Whole, killed_before: Killed) -> None:
    """Row 13: exit code 1, a message with path and bytes; the old checkpoint stays, and the run can go on from it."""
    run = tmp_path / "run"
    killed_before(3, run, checkpoint_every=2)
    size = checkpoint_path(run, 2).stat().st_size
    limit = functools.partial(limit_files, (run / "encoder.safetensors").stat().st_size)
    training = start(command(run, checkpoint_every=2), tmp_path, inject=limit)
    assert training.exit_codes() == [1]
    assert_not_written(training.text(), checkpoint_path(run, 4), "File too large", size)
    assert saved_steps(run) == [2]
    assert not list(run.rglob("*.part"))
    assert (status(run)["state"], status(run)["exit_code"]) == ("failed", 1)
    load_tensors(checkpoint_path(run, 2))
    finish(command(run, checkpoint_every=2), tmp_path)
    assert resumed(run) == [2, 2]
    assert_same_end(run, whole())


def test_a_full_disk(tmp_path: Path, small_disk: Path, whole: Whole, killed_before: Killed) -> None:
    """Row 13: the same where the disk has room for the lines of metrics, but not for another checkpoint."""
    run, filler = small_disk / "run", small_disk / "filler"
    killed_before(3, run, checkpoint_every=2)
    size = checkpoint_path(run, 2).stat().st_size
    free = shutil.disk_usage(small_disk).free
    encoder = (run / "encoder.safetensors").stat().st_size
    filler.write_bytes(bytes(free - encoder - size // 2))
    training = start(command(run, checkpoint_every=2), tmp_path)
    assert training.exit_codes() == [1]
    assert_not_written(training.text(), checkpoint_path(run, 4), "No space left on device", size)
    assert status(run)["state"] == "failed"
    assert saved_steps(run) == [2]
    load_tensors(checkpoint_path(run, 2))
    filler.unlink()
    finish(command(run, checkpoint_every=2), tmp_path)
    assert resumed(run) == [2, 2]
    assert_same_end(run, whole())


def test_a_disk_without_any_room(tmp_path: Path, small_disk: Path, whole: Whole, killed_before: Killed) -> None:
    """Row 13: where not even a line of metrics can be written, the file is named too, and nothing is lost."""
    run, filler = small_disk / "run", small_disk / "filler"
    killed_before(3, run, checkpoint_every=2)
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free + 65536))
    training = start(command(run, checkpoint_every=2), tmp_path)
    assert training.exit_codes() in ([1], [2])
    last = training.text().splitlines()[-1]
    assert last.startswith("moco: error: ")
    assert str(run) in last
    assert "No space left on device" in last
    assert saved_steps(run) == [2]
    filler.unlink()
    finish(command(run, checkpoint_every=2), tmp_path)
    assert_same_end(run, whole())


@pytest.mark.parametrize("where", ["under a file", "read-only disk"])
def test_an_output_that_cannot_be_written(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    """Row 14: refused before the first step, with the flag; exit code 2."""
    if where == "under a file":
        (tmp_path / "file").touch()
        run, reason = tmp_path / "file" / "run", "Not a directory"
    else:
        disk = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run, reason = disk / "run", "Read-only file system"
    training = start(command(run), tmp_path)
    assert training.exit_codes() == [2]
    said = training.text().splitlines()
    assert said[-1] == f"moco: error: --out {run}: cannot be written ({reason}): give a folder that can"
    assert "step 1/" not in training.text()


# --- reading --------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change one byte of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "reason"), [(truncate, "not a valid safetensors file"), (flip, "digest")])
def test_a_damaged_checkpoint(tmp_path: Path, whole: Whole, killed_before: Killed, damage: object, reason: str) -> None:
    """Rows 15 and 16: it is refused by its digest, the run goes on from the one before and says so."""
    assert callable(damage)
    run, flags = tmp_path / "run", {"checkpoint_every": 3}
    killed_before(7, run, checkpoint_every=3)
    assert saved_steps(run) == [6, 3]
    damage(checkpoint_path(run, 6))
    with pytest.raises(BadInputError, match=reason):
        load_tensors(checkpoint_path(run, 6))
    training = finish(command(run, **flags), tmp_path)
    assert f"skipped: {checkpoint_path(run, 6)}: " in training.text()
    assert reason in training.text()
    assert resumed(run) == [3]
    assert_same_end(run, whole())


def test_every_checkpoint_damaged(tmp_path: Path, killed_before: Killed) -> None:
    """Days of work are not started over in silence: the error says what to remove; exit code 2."""
    run, flags = tmp_path / "run", {"checkpoint_every": 3}
    killed_before(7, run, checkpoint_every=3)
    for step in (3, 6):
        truncate(checkpoint_path(run, step))
    training = start(command(run, **flags), tmp_path)
    assert training.exit_codes() == [2]
    last = training.text().splitlines()[-1]
    assert last.startswith(f"moco: error: {run}: none of its 2 checkpoints is valid")
    assert saved_steps(run) == [6, 3]


# --- two runs, leftovers --------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(tmp_path: Path, whole: Whole) -> None:
    """Row 19: the second is refused, with the first one's process; the first does not notice."""
    run, place, other = tmp_path / "run", gate(tmp_path / "gate"), tmp_path / "other"
    other.mkdir()
    first = start(command(run), tmp_path, inject=functools.partial(pause_before, place, 4))
    place.wait()
    second = start(command(run), other)
    assert second.exit_codes() == [2]
    holder = f"process {first.processes[0].pid} on {os.uname().nodename}"
    assert second.text().splitlines()[-1] == (
        f"moco: error: --out {run}: {holder} is writing it: wait, or give another"
    )
    place.open()
    assert first.exit_codes() == [0]
    assert_same_end(run, whole())


def test_the_lock_of_a_killed_run(tmp_path: Path, whole: Whole) -> None:
    """Row 19: it is free at once, though loading processes, which inherit descriptors, may live on for an instant."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    flags = {"checkpoint_every": 2, "workers": 2}
    training = start(command(run, **flags), tmp_path, inject=functools.partial(pause_before, place, 5))
    place.wait()
    written(run, 4)
    own = training.processes[0].pid
    assert own is not None
    loaders = children(own)
    assert len(loaders) == 2
    for loader in loaders:
        os.kill(loader, signal.SIGSTOP)
    training.send(signal.SIGKILL)
    assert training.exit_codes() == [-signal.SIGKILL]
    finish(command(run, **flags), tmp_path)
    for loader in loaders:
        with contextlib.suppress(ProcessLookupError):  # it ended with its parent, or about to
            os.kill(loader, signal.SIGKILL)
    assert resumed(run) == [4]
    assert_same_end(run, whole())


def test_an_old_checkpoint_that_cannot_be_removed(tmp_path: Path, whole: Whole, killed_before: Killed) -> None:
    """Row 20: the run warns and goes on; half-written ones go, and the two newest valid ones stay."""
    run, flags = tmp_path / "run", {"checkpoint_every": 3}
    killed_before(7, run, checkpoint_every=3)
    stuck = checkpoint_path(run, 1)
    (stuck / "inside").mkdir(parents=True)  # nobody, not even root, can unlink a folder
    half = run / "checkpoints" / "000000009.safetensors.part"
    half.write_bytes(checkpoint_path(run, 6).read_bytes()[:5000])
    training = finish(command(run, **flags), tmp_path)
    assert f"moco: warning: {stuck}: an old checkpoint that cannot be removed (Is a directory)" in training.text()
    assert resumed(run) == [6]
    assert saved_steps(run) == [12, 9, 1]
    assert not half.exists()
    assert_same_end(run, whole())


def test_a_stuck_checkpoint_does_not_count_as_sound(tmp_path: Path, killed_before: Killed) -> None:
    """Row 20: what cannot be read and not be removed takes no sound one's place."""
    run, flags = tmp_path / "run", {"checkpoint_every": 3}
    killed_before(7, run, checkpoint_every=3)
    (checkpoint_path(run, 8) / "inside").mkdir(parents=True)
    training = finish(command(run, **flags), tmp_path)
    assert "skipped" in training.text()
    assert saved_steps(run) == [12, 9, 8]
    for step in (12, 9):
        load_tensors(checkpoint_path(run, step))


def test_retention_keeps_two(whole: Whole) -> None:
    """An undisturbed run that saves often keeps its last two."""
    run = whole(checkpoint_every=3)
    assert saved_steps(run) == [12, 9]
    assert len(lines(run, "loss")) == STEPS
    assert final_state(run)


# --- files that become pipes ----------------------------------------------------------------------------------------


def become_pipes(folder: Path, skipped: Sequence[str] = ()) -> None:
    """Put a pipe that nobody writes to in the place of every file."""
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name not in skipped]:
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_folder_of_pipes(tmp_path: Path, stopped: bool) -> None:
    """In mid-run: what is written takes their place, nothing waits for them, and SIGTERM is heard."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    training = start(command(run, checkpoint_every=2), tmp_path, inject=functools.partial(pause_before, place, 3))
    place.wait()
    written(run, 2)
    become_pipes(run)
    if stopped:
        training.send(signal.SIGTERM)
    place.open()
    assert training.exit_codes(PATIENCE) == [75 if stopped else 0], training.text()
    assert status(run)["state"] == ("stopped" if stopped else "done")
    assert saved_steps(run)[0] == (4 if stopped else STEPS)
