"""The run folder: config, metrics, status, and what a person sees while it runs."""

import contextlib
import io
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress

from moco.errors import BadInputError, one_line
from moco.runtime import distributed
from moco.runtime.configfile import drop_nonfinite
from moco.runtime.files import replace_file
from moco.runtime.folder import FAILED, RUNNING, lock, require_run_folder
from moco.runtime.loggers import Outlets
from moco.runtime.loglines import describe_bar, describe_look, describe_place, describe_step
from moco.runtime.machine import machine
from moco.runtime.progress import columns
from moco.runtime.records import read_records

Metrics = dict[str, float]

METRICS, EVENTS = "metrics.jsonl", "events.out.tfevents"
MOST_EVENTS = 1000
"""So many may wait to be written; one more waits, too. A line of the log has some ten."""
SILENCE = 60.0
"""Seconds without a line, after which one says how far the training is."""


class RunLog:
    """Records one run: metrics, TensorBoard events, status and machine; a progress bar or plain lines for people.

    The folder is locked while the run goes on. With `active` false it only tells the time: on every rank but the first,
    and for a training that has no run folder of its own.
    """

    def __init__(
        self, run: Path, steps: int, loggers: Sequence[str] = (), *, active: bool = True, stdout: bool = True
    ) -> None:
        self.run, self.steps, self.active = run, steps, active
        self._outlets, self._state = Outlets(run, loggers if active else ()), ""
        self.console = Console(stderr=not stdout)
        self._lock: TextIO | None = None
        self._metrics: TextIO = io.StringIO()
        self._events: Any = _NoEvents()
        self._progress: Progress | None = None
        self._latest, self._health = "", dict[str, str]()
        self._found: dict[str, str] | None = None
        self._moved: tuple[int, float] | None = None
        self._reached = 0
        self.earlier = 0.0
        """Seconds that the parts of the run before this one took."""
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "RunLog":
        try:
            distributed.from_first(self._open)  # if it cannot be opened, no rank continues
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _open(self) -> None:
        if self.active:
            self._lock = lock(self.run)
            write_text(self.run / "machine.json", json.dumps(machine()) + "\n")
            path = self.run / METRICS
            if path.exists() and not path.is_file():
                raise BadInputError(f"{path}: expected a regular file: remove it, or give another --out")
            self._metrics = path.open("a", encoding="utf-8")
            self._events = _events(self.run)
            if self.console.is_terminal:
                self._progress = Progress(*columns(), console=self.console, refresh_per_second=2)
                self._task = self._progress.add_task("", total=self.steps)
                self._progress.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()
        self._give_up(error)
        self._outlets.close(FAILED if self._state in ("", RUNNING) else self._state)
        try:
            self._metrics.close()
            self._leave_lost_events()
            self._events.close()
        except OSError:  # on a full disk; where that ended the run, its error says so
            if error is None:
                raise
        finally:
            if self._lock:
                self._lock.close()

    @property
    def seconds(self) -> float:
        """Time since the start of the run, without the pauses between its parts."""
        return self.earlier + time.monotonic() - self._started

    def resume(self, step: int, seconds: float) -> dict[str, Any]:
        """Go on after `step`: what was logged beyond it is cut off, the clock continues.

        Returns the last line with a loss; nothing where there is none, and on every rank but the first.
        """
        self.earlier, self._started = seconds, time.monotonic()
        if not self.active:
            return {}
        path = self.run / METRICS
        lines = [values for values in read_records(path) if _is_kept(values, step)]
        self._metrics.close()
        write_text(path, "".join(json.dumps(values) + "\n" for values in lines))
        self._metrics = path.open("a", encoding="utf-8")
        self._leave_lost_events()
        self._events.close()
        self._events = _events(self.run, purge_step=step + 1)
        self.event("resume", step=step)
        return next((values for values in reversed(lines) if type(values.get("loss")) in (int, float)), {})

    def begin(self, step: int, config: str | None) -> None:
        """Note that the run of these settings (JSON) goes on after so many steps, here and at loggers elsewhere."""
        self._reached = step
        self.status(RUNNING, step=step)
        self._outlets.connect(step, json.loads(config or "{}"), self.say)

    def event(self, name: str, **values: Any) -> None:
        """Log that something happened."""
        self._write({"event": name, **values})

    def metrics(self, step: int, values: Metrics) -> None:
        """Log figures of `step`, and show them."""
        self._write({"step": step, **values})
        if not self.active:
            return
        self._draw(step, values)
        if "loss" not in values:
            self.say(describe_look(step, self.steps, values))
        elif self._progress is None:
            self.say(describe_step(step, self.steps, values, self._seconds_left(step)))
        else:
            self._latest = describe_bar(values)

    def health(self, step: int, text: str, findings: Mapping[str, str], values: Metrics) -> None:
        """Log how the run does after `step`: in words, what was found and what each means, and the figures.

        A person reads the words only where something else was found than the last time, and then only what is new.
        """
        new = text.removeprefix(self._health.get("health", "")).lstrip() or text
        self._health = {"health": text}
        names, conditions = list(findings), list(findings.values())
        self._write({"step": step, "health": text, "findings": names, "conditions": conditions, **values})
        self._draw(step, values)
        if findings != self._found:
            self.say(f"step {step}/{self.steps}  health: {new}")
        self._found = dict(findings)

    def progress(self, step: int) -> None:
        """Note that training has come to `step`, and move the progress bar, or say so after a long silence."""
        self._reached = step
        if self._moved is None:
            self._moved = step, time.monotonic()
        if self._progress:
            self._progress.update(self._task, completed=step, description=self._latest)
        elif time.monotonic() - self._said > SILENCE:
            self.say(describe_place(step, self.steps, self._seconds_left(step)))

    def set_length(self, steps: int) -> None:
        """Show another number of steps as the run's length from now on."""
        self.steps = steps
        if self._progress:
            self._progress.update(self._task, total=steps)

    def say(self, text: str) -> None:
        """Tell a person."""
        self._said = time.monotonic()
        if self.active:
            shown = "\n".join(one_line(line) for line in text.split("\n"))
            with contextlib.suppress(SystemExit):  # where the reader is gone (| head), rich says no more, and would end
                self.console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def status(self, state: str, **values: Any) -> None:
        """Replace `status.json`; it also holds the latest word on the run's health."""
        self._state = state
        if self.active:
            require_run_folder(self.run)
            content = {"state": state, "pid": os.getpid(), **self._health, **values}
            write_text(self.run / "status.json", json.dumps(content) + "\n")

    def _give_up(self, error: BaseException | None) -> None:
        """Say that the run failed where an error ends it and its status says that it is running, if there is room."""
        if self._state == RUNNING and isinstance(error, Exception):
            with contextlib.suppress(OSError):
                self.status(FAILED, step=self._reached, exit_code=2 if isinstance(error, BadInputError) else 1)

    def _draw(self, step: int, values: Metrics) -> None:
        """Let TensorBoard and other loggers draw figures of `step`."""
        self._outlets.log(step, values)
        if self.active:
            self._leave_lost_events()
            with _naming(self.run / EVENTS):
                for name, value in values.items():
                    self._events.add_scalar(name, value, step)

    def _leave_lost_events(self) -> None:
        """Write no more events where a pipe or a device has taken the place of their file.

        TensorBoard opens the file for each write: its thread would wait for ever, and with it who waits for the thread.
        """
        if isinstance(self._events, _NoEvents) or all(path.is_file() for path in self.run.glob(f"{EVENTS}*")):
            return
        self._events = _NoEvents()  # the other is not closed: that waits for its thread
        warnings.warn(f"{self.run / EVENTS}*: no regular file any more: no events are written", stacklevel=2)

    def _seconds_left(self, step: int) -> float | None:
        """Estimate how long the steps after `step` take, by all since the first of this part of the run."""
        if self._moved is None or step <= self._moved[0]:
            return None
        first, since = self._moved
        return (time.monotonic() - since) / (step - first) * (self.steps - step)

    def _write(self, values: dict[str, Any]) -> None:
        if self.active:
            require_run_folder(self.run)
            path = self.run / METRICS
            if not path.exists():  # somebody removed it: what comes must not go into a file without a name
                self._metrics.close()
                self._metrics = path.open("a", encoding="utf-8")
            with _naming(path):
                self._metrics.write(json.dumps({**drop_nonfinite(values), "time": round(self.seconds, 3)}) + "\n")
                self._metrics.flush()


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is at every moment the old one or the new one."""
    replace_file(path, text.encode())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in an OSError which file could not be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write ({error.strerror or error})", str(path)) from error


def read_events(run: Path, name: str) -> list[dict[str, Any]]:
    """Read the events of this name in `metrics.jsonl`."""
    return [values for values in read_metrics(run) if values.get("event") == name]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`, without a half-written last line; none without the file."""
    return list(read_records(run / METRICS))


def _is_kept(values: dict[str, Any], step: int) -> bool:
    """Whether a run that goes on after `step` keeps a line: figures of the monitor at `step` will come again."""
    own = values.get("step", 0)
    return bool(own < step or (own == step and ("loss" in values or "event" in values)))


class _NoEvents:
    """Takes what TensorBoard's writer takes, and keeps nothing."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _events(run: Path, purge_step: int | None = None) -> Any:
    """TensorBoard's writer; a reader passes over what earlier files hold from `purge_step` on."""
    from torch.utils.tensorboard.writer import SummaryWriter

    try:
        with _naming(run / EVENTS):
            return SummaryWriter(str(run), purge_step=purge_step, max_queue=MOST_EVENTS)
    except UnicodeEncodeError:
        warnings.warn(f"{run}: not UTF-8, so TensorBoard cannot write there: no events are written", stacklevel=2)
        return _NoEvents()
