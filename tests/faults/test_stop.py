"""SIGTERM and SIGINT: to torchrun, to one rank, at bad moments, twice (rows 6-9)."""

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.runtime.checkpoint import load_tensors
from moco.runtime.signals import SAME_REQUEST
from tests.faults.conftest import Whole
from tests.faults.injections import (
    each,
    gate,
    pause_before,
    pause_in_batch,
    pause_in_monitor,
    pause_in_save,
    stop_loading,
)
from tests.faults.processes import (
    STEPS,
    assert_same_end,
    command,
    finish,
    lines,
    reached,
    resumed,
    saved_steps,
    start,
    status,
    torchrun,
    until,
)
from tests.slow import slow


def assert_stopped(run: Path, step: int) -> None:
    """A run was saved after a step, which is the last that it made."""
    assert saved_steps(run)[0] == step
    assert [line["step"] for line in lines(run, "loss")][-1] == step
    assert lines(run, "event")[-1] | {"time": 0} == {"event": "stopped", "step": step, "time": 0}
    assert (status(run)["state"], status(run)["step"], status(run)["exit_code"]) == ("stopped", step, 75)
    assert not list(run.rglob("*.part"))


@pytest.mark.slow
def test_sigterm_to_torchrun_with_workers(tmp_path: Path, whole: Whole) -> None:
    """Row 6: torchrun signals whole process groups; the loading processes leave it to the ranks, which save."""
    run, flags = tmp_path / "run", {"max_steps": 120}
    job = torchrun(command(run, workers=2, **flags), tmp_path / "said", "--standalone", "--nproc-per-node", "2")
    reached(run, 3)
    job.process.terminate()
    job.process.wait(60)
    step = lines(run, "loss")[-1]["step"]
    assert 3 <= step < 120
    assert_stopped(run, step)
    assert "stopped after step" in job.text()
    assert "Traceback" not in job.text().split("stopped after step")[0]
    finish(command(run, workers=0, **flags), tmp_path, ranks=2)
    assert resumed(run) == [step]
    assert_same_end(run, whole(2, **flags), 120)


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
def test_a_signal_to_the_whole_group(tmp_path: Path, whole: Whole, number: signal.Signals) -> None:
    """A terminal and torchrun signal the loading processes too."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    training = start(command(run, workers=2), tmp_path, inject=functools.partial(pause_before, place, 4))
    place.wait()
    training.send(number, group=True)
    place.open()
    assert training.exit_codes() == [75], training.text()
    assert_stopped(run, 5)
    finish(command(run), tmp_path)
    assert_same_end(run, whole())


@pytest.mark.parametrize("rank", [slow(0), 1])
def test_sigterm_to_one_rank_only(tmp_path: Path, whole: Whole, rank: int) -> None:
    """Row 7: both ranks stop after the same step."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    inject = functools.partial(pause_before, place, 4, rank)
    training = start(command(run), tmp_path, ranks=2, inject=inject)
    place.wait()
    training.send(signal.SIGTERM, rank)
    place.open()
    assert training.exit_codes() == [75, 75], training.text()
    assert_stopped(run, 5)
    finish(command(run), tmp_path, ranks=2)
    assert_same_end(run, whole(2))


def test_no_rank_leaves_before_all_is_written(tmp_path: Path) -> None:
    """Row 7: torchrun ends the others when one rank ends, so that rank 1 waits for what rank 0 writes."""
    run, before, saving = tmp_path / "run", gate(tmp_path / "before"), gate(tmp_path / "saving")
    pauses = functools.partial(pause_before, before, 4, 1), functools.partial(pause_in_save, saving, 5)
    training = start(command(run), tmp_path, ranks=2, inject=functools.partial(each, pauses))
    before.wait()
    training.send(signal.SIGTERM, 1)
    before.open()
    saving.wait()
    assert training.exit_codes(seconds=1.0) == [None, None]
    saving.open()
    assert training.exit_codes() == [75, 75]


def test_sigterm_while_a_checkpoint_is_written(tmp_path: Path, whole: Whole) -> None:
    """Row 8: the step at hand is made, saved, and the run goes on as if nothing had been."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    inject = functools.partial(pause_in_save, place, 3)
    training = start(command(run, checkpoint_every=3), tmp_path, inject=inject)
    place.wait()
    training.send(signal.SIGTERM)
    place.open()
    assert training.exit_codes() == [75], training.text()
    assert saved_steps(run)[0] >= 4
    assert_stopped(run, saved_steps(run)[0])
    finish(command(run, checkpoint_every=3), tmp_path)
    assert_same_end(run, whole())


STOPPED = "a batch of a process that was stopped"
WAITS: dict[str, tuple[Callable[..., None], int, dict[str, object], int]] = {
    "the last look": (pause_in_monitor, 1, {"knn_every": 100}, STEPS),
    "the first batch, made here": (pause_in_batch, 0, {"workers": 0}, 0),
    "a batch of another process": (pause_in_batch, 4, {"workers": 1}, 4),
    STOPPED: (stop_loading, 4, {"workers": 1}, 4),
}
"""What a run waits for, which never comes: how, when, with which flags, and the step that is saved."""


@pytest.mark.parametrize("what", [slow(what) if what == STOPPED else what for what in WAITS])
def test_sigterm_while_it_waits(tmp_path: Path, whole: Whole, what: str) -> None:
    """Row 8: the run ends within seconds, saved, and goes on as if nothing had been."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    pause, when, flags, step = WAITS[what]
    training = start(command(run, **flags), tmp_path, inject=functools.partial(pause, place, when))
    place.wait()
    if pause is stop_loading:
        time.sleep(0.5)  # what it made before may be stuck in it
    elif step:
        reached(run, step)
    training.send(signal.SIGTERM)
    assert training.exit_codes(seconds=30.0) == [75], training.text()
    step = max((line["step"] for line in lines(run, "loss")), default=0) if pause is stop_loading else step
    assert saved_steps(run) == [step] * bool(step)
    assert lines(run, "event")[-1] | {"time": 0} == {"event": "stopped", "step": step, "time": 0}
    assert (status(run)["state"], status(run)["step"], status(run)["exit_code"]) == ("stopped", step, 75)
    finish(command(run, **{**flags, "knn_every": 0}), tmp_path)
    assert_same_end(run, whole())


@pytest.mark.slow
@pytest.mark.parametrize("waiting", [0, 1])
def test_sigterm_to_both_ranks_of_which_one_waits(tmp_path: Path, whole: Whole, waiting: int) -> None:
    """Row 8: they cannot save together, so that the last checkpoint stays; neither is left alone with a time-out."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    inject = functools.partial(pause_in_batch, place, 4, waiting)
    training = start(command(run, workers=0, checkpoint_every=3), tmp_path, ranks=2, inject=inject)
    place.wait()
    for rank in (0, 1):
        training.send(signal.SIGTERM, rank)
    assert training.exit_codes(seconds=60.0) == [75, 75], training.text()
    assert (status(run)["state"], status(run)["step"]) == ("stopped", 3)
    finish(command(run, checkpoint_every=3), tmp_path, ranks=2)
    assert resumed(run) == [3]
    assert_same_end(run, whole(2))


def test_a_second_sigterm(tmp_path: Path, whole: Whole) -> None:
    """Row 9: it ends the process at once, in the midst of a write; the checkpoint before is sound."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    inject = functools.partial(pause_in_save, place, 8)
    training = start(command(run, checkpoint_every=4), tmp_path, inject=inject)
    place.wait()
    training.send(signal.SIGTERM)
    first = time.monotonic()
    until(lambda: time.monotonic() > first + SAME_REQUEST + 0.5, "the echo's end")
    training.send(signal.SIGTERM)
    assert training.exit_codes(seconds=5.0) == [-signal.SIGTERM]
    assert saved_steps(run) == [4]
    assert list((run / "checkpoints").glob("*.part"))
    load_tensors(run / "checkpoints" / "000000004.safetensors")
    finish(command(run, checkpoint_every=4), tmp_path)
    assert resumed(run) == [4]
    assert_same_end(run, whole())
    assert not list(run.rglob("*.part"))


def test_an_echo_of_the_first_sigterm(tmp_path: Path) -> None:
    """A scheduler that signals every process, and torchrun that hands it on, ask once."""
    run, place = tmp_path / "run", gate(tmp_path / "gate")
    training = start(command(run), tmp_path, inject=functools.partial(pause_before, place, 2))
    place.wait()
    for _ in range(3):
        training.send(signal.SIGTERM)
    place.open()
    assert training.exit_codes() == [75], training.text()
    assert_stopped(run, 3)
