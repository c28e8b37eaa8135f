"""Every training is recorded by one piece: stopped by a signal it goes on to the same bits, and it sees divergence.

The loops differ here in nothing but how they are begun.
"""

import errno
import os
import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moco.commands import finetune, linear, pretrain, transfer
from moco.data.ahead import _ErrorsAsItems
from moco.errors import BadInputError, DivergedError, StoppedError
from moco.evaluation.config import FinetuneConfig, LinearConfig
from moco.pretraining.recipes import recipe
from moco.runtime import run as module
from moco.runtime import scaling
from moco.runtime.checkpoint import Checkpoints, checkpoint_path, load_tensors, snapshot
from moco.runtime.files import replace_file
from moco.runtime.folder import lock, read_status
from moco.runtime.run import Run
from moco.runtime.runlog import RunLog
from moco.runtime.state import state_tensors
from moco.transfer.recipes import transfer_config
from tests.transfer.scenes import write

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0}
SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 8, "view_size": 8, "dictionary": "queue", "batch_size": 32, "queue_size": 64,
    "bn_groups": 4, "max_steps": 6, "log_every": 1, "checkpoint_every": 0, "knn_every": 0, **CPU,
}  # fmt: skip
SCENES: dict[str, Any] = {
    "arch": "resnet10-w4", "max_steps": 6, "batch_size": 2, "crop_size": 32, "head_channels": 4, "precise_bn": 0,
    "log_every": 1, "shown_images": 0, **CPU,
}  # fmt: skip
STOPPED = 3
"""The step after which a run is stopped: amidst an epoch of each, and of none the last."""


@dataclass(frozen=True)
class Place:
    """Where a loop works: a folder of its own, annotated scenes, and an encoder's run."""

    folder: Path
    scenes: Path
    encoder: Path

    def weights(self) -> str:
        """A run of its own, beside which the state of an evaluation lies."""
        own = self.folder / "encoder"
        return str(own if own.is_dir() else shutil.copytree(self.encoder, own))


def begin_pretraining(place: Place, **more: Any) -> dict[str, Any]:
    """Six steps of forty-four to an epoch."""
    return pretrain.run(recipe("quick", data="digits", out=place.folder / "run", **{**SMALL, **more}))


def begin_transfer(place: Place, **more: Any) -> dict[str, Any]:
    """Six steps of two to an epoch."""
    values = {"weights": "random", "data": str(place.scenes), "out": place.folder / "run", **SCENES, **more}
    return transfer.run(transfer_config("voc-semantic", **values))


def begin_linear(place: Place, lr: float = 0.3) -> dict[str, Any]:
    """Six steps of five to an epoch; the backbone stays."""
    weights, values = place.weights(), {"protocol": "paper", "epochs": 2, "batch_size": 256, "baseline": False, **CPU}
    return linear.run(LinearConfig(weights, "digits", lr=lr, **values))


def begin_finetuning(place: Place, lr: float = 0.1, **more: Any) -> dict[str, Any]:
    """Six steps of eleven to an epoch."""
    values = {"max_steps": 6, "batch_size": 128, **CPU, **more}
    return finetune.run(FinetuneConfig(place.weights(), "digits", base_lr=lr, **values))


LOOPS: dict[str, Callable[..., dict[str, Any]]] = {
    "pretraining": begin_pretraining, "transfer": begin_transfer, "linear": begin_linear, "finetune": begin_finetuning,
}  # fmt: skip
FIRST_SCALES = {"pretraining": 2.0**15, "transfer": 2.0**17}
"""So large that the first steps in fp16 overflow, and small enough that later ones do not."""
every_loop = pytest.mark.parametrize("loop", LOOPS)


@dataclass
class Seen:
    """What the loops did: steps of the optimizer since the last look, and the state at the end of a training."""

    steps: int = 0
    end: dict[str, Tensor] = field(default_factory=dict)
    signal_at: int | None = None
    """The step of the optimizer in which a signal comes."""
    stall_at: int | None = None
    """The number of the batch that never comes; a signal comes instead."""
    batches: int = 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Watch every training; let a signal come where that is asked for."""
    found, step, finish, make = Seen(), torch.optim.SGD.step, Run.finish, _ErrorsAsItems.__getitem__

    def stepped(self: torch.optim.SGD, *arguments: Any, **more: Any) -> Any:
        found.steps += 1
        if found.steps == found.signal_at:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments, **more)

    def made(self: _ErrorsAsItems, item: Any) -> Any:
        found.batches += 1
        if found.batches == found.stall_at:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the wait went on")
        return make(self, item)

    def finished(self: Run, *arguments: Any) -> dict[str, Any]:
        found.end = snapshot(state_tensors(self.modules, self.optimizer, self.scaler))
        return finish(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", stepped)
    monkeypatch.setattr(Run, "finish", finished)
    monkeypatch.setattr(_ErrorsAsItems, "__getitem__", made)
    return found


@pytest.fixture
def place(tmp_path: Path, tiny_run: Path) -> Callable[[str], Place]:
    """A new folder for a loop."""
    scenes = write("voc-semantic", tmp_path / "scenes", 4, (48, 32))

    def make(name: str) -> Place:
        (tmp_path / name).mkdir()
        return Place(tmp_path / name, scenes, tiny_run)

    return make


def exit_code(begin: Callable[[], dict[str, Any]]) -> int:
    """As the command line has it."""
    try:
        return int(begin().get("exit_code", 0))
    except StoppedError:
        return 75


@every_loop
def test_stopped_by_a_signal_in_mid_epoch(loop: str, seen: Seen, place: Callable[[str], Place]) -> None:
    """In a step, or while a batch is waited for.

    The same command goes on, and weights, statistics, momenta, queue and random state end the same bit for bit.
    """
    whole, parts = place("whole"), place("parts")
    assert exit_code(lambda: LOOPS[loop](whole)) == 0
    steps, undisturbed = seen.steps, seen.end

    seen.steps, seen.signal_at, seen.end = 0, STOPPED, {}
    assert exit_code(lambda: LOOPS[loop](parts)) == 75
    assert (seen.steps, seen.end) == (STOPPED, {})

    seen.steps, seen.signal_at, seen.batches, seen.stall_at = 0, None, 0, 2
    assert exit_code(lambda: LOOPS[loop](parts)) == 75
    assert (seen.steps, seen.end) == (1, {})

    seen.steps, seen.stall_at = 0, None
    assert exit_code(lambda: LOOPS[loop](parts)) == 0
    assert seen.steps == steps - STOPPED - 1
    assert seen.end.keys() == undisturbed.keys()
    assert [name for name, value in undisturbed.items() if not torch.equal(seen.end[name], value)] == []
    assert {"random", "sgd.0"} <= seen.end.keys()


@pytest.mark.parametrize("loop", FIRST_SCALES)
def test_a_run_in_fp16_goes_on_with_its_loss_scale(
    loop: str, seen: Seen, place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that overflow are left out and halve the scale; a stopped run goes on bit for bit, at the same scale."""
    whole, parts = place("whole"), place("parts")
    monkeypatch.setattr(scaling, "FIRST_SCALE", FIRST_SCALES[loop])
    assert exit_code(lambda: LOOPS[loop](whole, precision="fp16")) == 0
    overflows, undisturbed = 6 - seen.steps, seen.end
    assert 0 < overflows < 4
    assert float(undisturbed["scaler.scale"]) == FIRST_SCALES[loop] / 2**overflows

    seen.steps, seen.signal_at, seen.end = 0, 1, {}
    assert exit_code(lambda: LOOPS[loop](parts, precision="fp16")) == 75
    assert seen.steps in (1, 2)  # the step after the signal may overflow too
    assert seen.end == {}

    seen.signal_at = None
    assert exit_code(lambda: LOOPS[loop](parts, precision="fp16")) == 0
    assert [name for name, value in undisturbed.items() if not torch.equal(seen.end[name], value)] == []


@every_loop
def test_divergence_is_seen_in_its_step(loop: str, seen: Seen, place: Callable[[str], Place]) -> None:
    """Before the update that it would spoil; the error names the step."""
    with pytest.raises(DivergedError, match=r"loss \S+, gradient norm \S+ at step \d: .*smaller") as caught:
        LOOPS[loop](place("run"), lr=1e38)
    match = re.search(r"at step (\d)", str(caught.value))
    assert match is not None
    assert int(match[1]) == seen.steps
    assert 0 < seen.steps < 6
    assert seen.end == {}


@every_loop
def test_the_caller_is_left_as_it_was(loop: str, place: Callable[[str], Place]) -> None:
    """Its random numbers and its threads, also where a training goes on from a state that holds random numbers."""
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.set_num_threads(threads + 1)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        LOOPS[loop](place("run"))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(random)


def test_is_finite() -> None:
    """Neither a loss nor the gradient may be a NaN or an infinity, nor two infinities hide each other."""
    fine, nan, inf = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))
    assert scaling.is_finite(fine, fine, fine)
    for bad in ((nan, fine), (fine, nan), (fine, inf), (inf, fine), (fine, inf, -inf), (fine, fine, nan)):
        assert not scaling.is_finite(*bad)


# --- the end of a run -----------------------------------------------------------------------------------------------


def tiny(folder: Path) -> Run:
    """A run that trains almost nothing."""
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return Run(str(folder), {"net": net}, optimizer, RunLog(folder, 3), Checkpoints(folder), {}, "{}\n")


def save_and_fail(run: Run) -> None:
    """An error while a checkpoint may still be written."""
    with run:
        run.restore()
        run.save(1)
        raise ArithmeticError("a step failed")


def test_a_write_does_not_outlast_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes on with the folder after an error finds the whole checkpoint and no writer."""
    real = replace_file

    def slow(path: Path, content: bytes) -> None:
        time.sleep(0.3)
        real(path, content)

    monkeypatch.setattr(module, "replace_file", slow)
    with pytest.raises(ArithmeticError):
        save_and_fail(tiny(tmp_path))
    assert load_tensors(checkpoint_path(tmp_path, 1))[1]["step"] == 1
    lock(tmp_path).close()


def fail_after(run: Run, step: int, error: BaseException) -> None:
    """End a run by an error."""
    with run:
        run.restore()
        run.advance(step)
        raise error


@pytest.mark.parametrize(
    ("error", "code"), [(ArithmeticError(), 1), (OSError(28, "full"), 1), (BadInputError("so"), 2)], ids=repr
)
def test_an_error_leaves_no_run_that_says_it_is_running(tmp_path: Path, error: Exception, code: int) -> None:
    """Whatever ends it: the status has the step, and what the process returns."""
    with pytest.raises(type(error)):
        fail_after(tiny(tmp_path), 2, error)
    assert read_status(tmp_path) == {"state": "failed", "pid": os.getpid(), "step": 2, "exit_code": code}


def test_a_status_that_cannot_be_written_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk without any room the status stays; it is read as that of a killed run."""
    run = tiny(tmp_path)
    begin = run.log.begin

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    def fill(*more: Any) -> None:
        begin(*more)
        monkeypatch.setattr("moco.runtime.runlog.write_text", refuse)

    monkeypatch.setattr(run.log, "begin", fill)
    with pytest.raises(ArithmeticError):
        fail_after(run, 2, ArithmeticError())
    assert read_status(tmp_path)["state"] == "killed"


def test_a_write_that_fails_hides_no_other_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But is raised where there is none."""

    def full(path: Path, content: bytes) -> None:
        raise OSError("no space")

    monkeypatch.setattr(module, "replace_file", full)
    with pytest.raises(ArithmeticError):
        save_and_fail(tiny(tmp_path / "one"))
    with pytest.raises(OSError, match="no space"), tiny(tmp_path / "other") as run:
        run.save(1)


def remove_and_write(folder: Path, write_more: Callable[[Run], None]) -> None:
    """Take away a run's folder before it writes again."""
    with tiny(folder) as run:
        shutil.rmtree(folder)
        write_more(run)


@pytest.mark.parametrize(
    "write_more", [lambda run: run.log.event("x"), lambda run: run.log.status("running"), lambda run: run.save(1)]
)
def test_a_run_folder_that_is_removed(tmp_path: Path, write_more: Callable[[Run], None]) -> None:
    """The next write says so; it makes no folder in which the rest of the run is missing."""
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="was removed or moved during the run"):
        remove_and_write(folder, write_more)
    assert not folder.exists()


def test_three_calls_from_the_loop_to_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run.save, which leaves Run._write to a thread, which calls replace_file."""
    calls: list[str] = []

    def replaced(path: Path, content: bytes) -> None:
        own = [frame.name for frame in traceback.extract_stack() if Path(frame.filename) == Path(module.__file__)]
        calls.extend(["save", *own, "replace_file"])

    monkeypatch.setattr(module, "replace_file", replaced)
    monkeypatch.setattr(Checkpoints, "keep", lambda *_: None)
    with tiny(tmp_path) as run:
        run.save(1)
    assert calls == ["save", "_write", "replace_file"]
