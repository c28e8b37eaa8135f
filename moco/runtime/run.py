"""The record of one training: how it is logged, saved, stopped, refused, and goes on."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from moco.errors import BadInputError, DivergedError, NoMemoryError, StalledError
from moco.runtime import distributed, pulse
from moco.runtime.checkpoint import Checkpoints, File, Metadata, Newest, Store, Writer, serialize, snapshot
from moco.runtime.configfile import from_json, read_command, to_json
from moco.runtime.device import peak_memory
from moco.runtime.fields import flag
from moco.runtime.files import read_bounded, replace_file
from moco.runtime.folder import FAILED, read_status, require_run_folder
from moco.runtime.loglines import describe_finished
from moco.runtime.runlog import RunLog, write_text
from moco.runtime.scaling import IDLE, build_scaler
from moco.runtime.shortage import describe_shortage
from moco.runtime.signals import EXIT_CODE, StopRequest, WaitEnded
from moco.runtime.state import load_state_tensors, rank_tensors, state_tensors, withhold

PLACES = ("data", "partner", "series")
"""Fields that say where the data of a run lie."""
OF_EACH_PROCESS = frozenset({*PLACES, "out", "threads", "workers", "json"})
"""Fields that may differ between the processes of a run, say because their machines do."""
HOW_NOT_WHAT = frozenset({
    "out", "json", "workers", "threads", "log_every", "logger", "checkpoint_every", "knn_every", "knn_k", "timeout",
    "accept_changed_data", "keep", "end_after", "end_spare", "small_views",
})  # fmt: skip
"""Fields that do not change what a run computes (view_size does, small_views only settles it): they may differ."""
TEACHER = "teacher"
"""In the metadata of a run's states: the digest of the weights that teach it."""


@dataclasses.dataclass
class Run:
    """Everything that a loop writes goes through its run; only the first rank writes.

    `modules` are what is trained, by name, and `described` is what the metadata of each state say beside step and
    seconds. The state lies in `store`: checkpoints in a folder, a single file, or nowhere.
    """

    name: str
    """The name in errors: its folder, if it has one."""
    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    log: RunLog
    store: Store | None
    described: Metadata = dataclasses.field(default_factory=dict)
    config: str | None = None
    """The content of its folder's config.json."""
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the command returns: the latest of its figures."""
    scaler: GradScaler = IDLE
    """Scales the loss of a training in fp16."""
    less_memory: str = "give a smaller --batch-size"
    """What to change where a step needs more memory than there is."""
    beside: Callable[[int], Sequence[File]] = lambda step: ()
    """The files that are written just before the state after so many steps."""

    def __post_init__(self) -> None:
        self._writer = Writer()
        self._saved = time.monotonic()
        self._step = self._saved_step = 0

    def __enter__(self) -> "Run":
        self.log.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()  # or a write would outlast the folder's lock
        except OSError:
            if error is None:
                raise
        finally:
            self.log.__exit__(kind, error, trace)

    def restore(self, remembered: Collection[str] = ()) -> int:
        """Load the newest valid state and return its step, 0 where there is none; cut the log back to that step.

        The last line with a loss gives the result the `remembered` names. Writes config.json where there is none yet.
        """
        whole = dict[str, Tensor]()

        def read() -> Newest | None:
            found = None if self.store is None else self.store.newest()
            if found is not None:
                whole.update(withhold(found.tensors, self.modules, str(found.path)))
            return found

        newest, step, seconds = distributed.from_first(read), 0, 0.0
        if newest is not None:
            for reason in newest.refused:
                self.log.say(f"skipped: {reason}")
            self._require_same_teacher(newest)
            load_state_tensors({**newest.tensors, **whole}, self.modules, self.optimizer, self.scaler, str(newest.path))
            step, seconds = int(newest.metadata["step"]), float(newest.metadata["seconds"])
        path = self.log.run / "config.json"
        new = self.config is not None and self.log.active and not path.is_file()
        if self.config is not None and new:
            write_text(path, self.config)
        if newest is not None or not new:
            last = self.log.resume(step, seconds)
            self.result.update({name: last[name] for name in remembered if name in last})
        self.log.begin(step, self.config)
        self._step = self._saved_step = step
        return step

    def _require_same_teacher(self, newest: Newest) -> None:
        """Raise BadInputError where the run was taught by other weights; runs from before there was a digest go on."""
        before, now = (str(about.get(TEACHER, "")) for about in (newest.metadata, self.described))
        if before and before != now:
            raise BadInputError(
                f"{newest.path}: its teacher's weights had the digest {before[:12]}, those of --teacher have "
                f"{now[:12] or 'none'}: give the teacher that it began with, or another --out"
            )

    def save(self, step: int) -> None:
        """Copy the state after `step` steps; the copy is written while training goes on, the files `beside` it first.

        Where a run is killed between the two, it does the last steps again and writes both. All ranks call it.
        """
        if self.store is None:
            return
        self._saved, self._saved_step = time.monotonic(), step
        of_ranks = rank_tensors(self.modules)  # before averaging: each rank continues with its own
        with distributed.average_statistics(*self.modules.values()):
            if distributed.rank() != 0:
                return
            files = [File(file.path, snapshot(file.tensors), file.metadata) for file in self.beside(step)]
            own = snapshot(state_tensors(self.modules, self.optimizer, self.scaler))
        facts = {**self.described, "step": step, "kind": "checkpoint", "seconds": self.log.seconds}
        files.append(File(self.store.path(step), own | {name: value.cpu() for name, value in of_ranks.items()}, facts))
        self._writer.submit(functools.partial(self._write, step, files))

    def _write(self, step: int, files: Sequence[File]) -> None:
        """Write a state, the last of the files, after the others."""
        assert self.store is not None
        if self.log.active:
            require_run_folder(self.log.run)  # or the write would make a folder without the rest of the run
        for file in files:
            replace_file(file.path, serialize(file.tensors, file.metadata))
        self.store.keep(files[-1].path)
        self.log.status("running", step=step)

    def wait(self) -> None:
        """Wait until all is written; raise what a write raised."""
        self._writer.wait()

    def saved_before(self, seconds: float) -> bool:
        """Return whether the last state is older than so many seconds."""
        return time.monotonic() - self._saved > seconds

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`; raise what the last write raised."""
        self._step = step
        self.log.progress(step)
        self._writer.check()

    def note_changed_data(self, step: int, changed: str, noun: str = "images") -> None:
        """Log in words what changed in the data since the run began, where that was accepted."""
        if changed:
            self.log.event("data_changed", step=step, what=changed)
            self.log.say(f"continuing with other {noun} than before, because of --accept-changed-data: {changed}")

    def until_stopped(self, request: StopRequest, train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `train` returns; where a request ends a wait in it, end after the last step.

        One process saves that step; of several, which save together or not at all, the last checkpoint stays.
        """
        try:
            with pulse.watch_collectives(distributed.rank(), distributed.world_size()):
                return train()
        except WaitEnded:
            pass
        except torch.OutOfMemoryError as error:
            self.fail(self._step, exit_code=1)
            raise NoMemoryError(describe_shortage(error, self.less_memory)) from error
        except StalledError:  # another process was asked to end too, and has left
            if not request.noted:
                raise
        if distributed.world_size() == 1 and self._step != self._saved_step:
            self.save(self._step)
        return self._end_stopped(self._saved_step)

    def stop(self, step: int) -> dict[str, Any]:
        """End after `step` steps, which are saved, because a signal asked for it; return the run's figures."""
        result = self._end_stopped(step)
        distributed.barrier()  # when one process ends torchrun ends the others: not while the first is writing
        return result

    def _end_stopped(self, step: int) -> dict[str, Any]:
        self.wait()
        self.log.event("stopped", step=step)
        done = f"after step {step}, saved" if step else "before a step was saved"
        self.log.say(f"stopped {done}: continue with the same command, or with moco resume")
        self.log.status("stopped", step=step, exit_code=EXIT_CODE)
        return {**self.result, "step": step, "seconds": round(self.log.seconds, 1), "exit_code": EXIT_CODE}

    def fail(self, step: int, exit_code: int = 2) -> None:
        """End at `step` because of bad input or too little memory, for which the caller raises the error."""
        self.wait()
        self.log.status(FAILED, step=step, exit_code=exit_code)

    def diverge(self, step: int, losses: Sequence[Tensor], gradient_norm: Tensor, advice: str) -> DivergedError:
        """End at `step` before a NaN or an infinity spreads; nothing is overwritten. Returns the error to raise."""
        self.wait()
        self.log.event("diverged", step=step)
        self.log.status("diverged", step=step, exit_code=3)
        loss = sum(float(loss.detach()) for loss in losses) / len(losses)
        kept = "" if self.config is None else "the last good checkpoint is kept; "
        return DivergedError(
            f"{self.name}: loss {loss:g}, gradient norm {float(gradient_norm):g} at step {step}: {kept}{advice}"
        )

    def finish(self, step: int, device: str, keep: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """End after the last step: note what the run took, let the first rank `keep` the figures, and return them."""
        self.wait()
        memory = round(peak_memory(device) / 2**20)
        self.result.update(step=step, seconds=round(self.log.seconds, 1), peak_memory_mib=memory)
        if keep is not None and self.log.active:
            keep(self.result)
        self.log.status("done", step=step, exit_code=0, result=self.result)
        distributed.barrier()
        return self.result


def open_run(
    config: Any, command: str, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, steps: int,
    described: Metadata,
) -> Run:  # fmt: skip
    """Open the run of a command in a folder of its own, `config.out`."""
    log = RunLog(config.out, steps, config.logger, active=distributed.rank() == 0, stdout=not config.json)
    return Run(
        str(config.out), modules, optimizer, log, Checkpoints(config.out), described, to_json(config, command),
        {"run": str(config.out)}, build_scaler(config.precision, config.device),
    )  # fmt: skip


def read_earlier(
    config: Any, free: Collection[str], require_same_data: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Read the status of the run that lies in `config.out`; empty where there is none. The fields of `free` may differ.

    `require_same_data` raises where the data are not those of then, and tells whether that is known: if so, they may
    lie in another place now, which is noted in config.json. A finished run needs its data no longer. The first rank
    reads, and all get the answer. Raises BadInputError where the run is of another config, naming the first field that
    differs, and DivergedError where it diverged.
    """
    return distributed.from_first(lambda: _read_earlier(config, free, require_same_data))


def _read_earlier(config: Any, free: Collection[str], require_same_data: Callable[[], bool] | None) -> dict[str, Any]:
    path: Path = config.out / "config.json"
    if not path.is_file():
        return {}
    theirs, status = from_json(type(config), read_bounded(path), path), read_status(config.out)
    if status.get("state") == "done" and not isinstance(status.get("result"), dict):  # damaged
        status = {}
    places = {name for name in PLACES if None not in (getattr(config, name, None), getattr(theirs, name, None))}
    moved = {name for name in places if len({os.path.abspath(getattr(own, name)) for own in (config, theirs)}) > 1}
    same = require_same_data is not None and bool(moved or status.get("state") != "done") and require_same_data()
    free = {*free, *(places if same else places - moved)}
    for name, value in vars(config).items():
        if name not in free and value != getattr(theirs, name):
            raise BadInputError(
                f"--out {config.out} holds a run with {flag(name)} {getattr(theirs, name)}, and now it is {value}: "
                f"give another folder, or the same flags to continue"
            )
    if status.get("state") == "diverged":
        raise DivergedError(f"{config.out} diverged at step {status.get('step')}: give another --out, a smaller --lr")
    if moved:  # the same data in another place
        now = dataclasses.replace(theirs, **{name: getattr(config, name) for name in moved})
        write_text(path, to_json(now, read_command(read_bounded(path), path)))
    return status or {"state": "running"}


def repeat_result(config: Any, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a run that is finished already, and say so."""
    result = {**earlier["result"], "already_done": True}
    if distributed.rank() == 0:
        figures = describe_finished(result)
        print(
            f"{config.out}: already finished, after step {earlier.get('step')}{figures and f' ({figures})'}: nothing "
            f"is left to do. Look at it with moco report {config.out}, or give another --out to train again"
        )
    return result
