"""Sends a run's figures to loggers elsewhere, such as W&B and MLflow; metrics.jsonl stays the source of them.

Each logger works in a thread of its own, so that a run never waits for one, and ends where one fails or hangs.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from moco.errors import BadInputError, one_line
from moco.runtime.configfile import drop_nonfinite
from moco.runtime.files import replace_file
from moco.runtime.owncode import OWN, load_own_code, name_own
from moco.runtime.phases import say_if_slow
from moco.runtime.records import read_object
from moco.runtime.trackers import TRACKERS, LoggedRun

IDENTITIES = "loggers.json"
"""The file in the run folder with each logger's name for this run, which a resumed run continues."""
PATIENCE = 30.0
"""Seconds that a run waits for a logger to begin; figures wait for it longer."""
LAST_PATIENCE = 60.0
"""Seconds that a finished run waits for a logger to send what it has."""
MOST_WAITING = 10_000
"""Figures that wait for a slow logger; those beyond are not sent."""
LONGEST_REASON = 300


class Logger(Protocol):
    """Takes the figures of one run.

    It may have two more attributes: `identity`, a text that says which run it is there and is given back as
    `LoggedRun.identity` when the run is resumed; and `place`, where a person looks at it. Whatever a method raises, the
    run goes on without the logger.
    """

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of a step. After a resumption steps come again that came before, with the same figures."""

    def close(self, state: str) -> None:
        """End: the run is `done`, `stopped` (and may be resumed), `failed` or `diverged`."""


Connect = Callable[[LoggedRun], Logger]
_own = dict[str, Connect]()
"""What a run's config says of a function of the user's own -> the function, of those that a command line named."""


def settle_loggers(given: Sequence[str]) -> tuple[str, ...]:
    """Return what a run's config says of the loggers that are given; files of the user's own are run here.

    What a config said before (own:...) stays, and is not loaded. Raises BadInputError for a name that is not known, for
    one whose library is not installed, and for a file that cannot be used.
    """
    settled = dict[str, None]()
    for earlier in _own.keys() - set(given):  # of another run in this process
        del _own[earlier]
    for name in given:
        stored = name
        if name in TRACKERS and find_spec(name) is None:
            raise BadInputError(f"--logger {name} needs {name}: pip install 'momentum-contrast[{name}]'")
        if name not in TRACKERS and not name.startswith(OWN):
            code = load_own_code("--logger", name, tuple(TRACKERS), "(run)")
            stored = code.stored
            _own[stored] = code.function
        settled[stored] = None
    return tuple(settled)


def add_loggers(before: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Return the loggers of a run that is resumed: those given now, and the others that it had."""
    again = {name_own(name) for name in given}
    return tuple(dict.fromkeys([*given, *(name for name in before if name_own(name) not in again)]))


@dataclass
class Outlets:
    """The loggers of one run. Nothing that they do raises."""

    folder: Path
    names: Sequence[str]
    """The loggers' names, as `settle_loggers` returns them."""
    _outlets: list["_Outlet"] = field(default_factory=list, init=False)
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False)

    def connect(self, step: int, config: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Begin all loggers, at `step`; what fails is said by `say`, once for each."""
        identities = _read_identities(self.folder / IDENTITIES)
        for name in self.names:
            short = name_own(name)
            connect = TRACKERS.get(name, _own.get(name))
            if connect is None:
                say(f"--logger: this run was also logged by your own {short}: to continue there, give it again")
                continue
            run = LoggedRun(self.folder, config, step, identities.get(short))
            self._outlets.append(_Outlet(short, connect, run, say, self._keep))
        for outlet in self._outlets:
            with say_if_slow(f"waiting for {outlet.name} to begin"):
                outlet.ready.wait(PATIENCE)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send figures of a step, but those that are not finite."""
        finite = {name: value for name, value in drop_nonfinite(figures).items() if value is not None}
        for outlet in self._outlets:
            outlet.put(step, finite)

    def close(self, state: str) -> None:
        """End all loggers; each gets a while to send what it has."""
        for outlet in self._outlets:
            outlet.end(state)

    def _keep(self, name: str, identity: str) -> None:
        """Write down what a logger calls the run, whenever it says so. Raises OSError where that cannot be written."""
        with self._writing:
            identities = {**_read_identities(self.folder / IDENTITIES), name: identity}
            replace_file(self.folder / IDENTITIES, (json.dumps(identities) + "\n").encode())


class _Outlet:
    """One logger and its thread."""

    def __init__(
        self, name: str, connect: Connect, run: LoggedRun, say: Callable[[str], None], keep: Callable[[str, str], None]
    ) -> None:
        self.name, self.ready = name, threading.Event()
        self._say, self._keep, self._failed, self._full = say, keep, False, False
        self._waiting: queue.Queue[tuple[int, Mapping[str, float]] | str] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, args=(connect, run), name=f"logger {name}", daemon=True)
        self._thread.start()

    def put(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand figures to the logger, unless it failed or has too many waiting."""
        if self._failed:
            return
        try:
            self._waiting.put_nowait((step, figures))
        except queue.Full:
            if not self._full:
                self._say(f"--logger {self.name}: too slow: it lacks figures from step {step} on")
            self._full = True

    def end(self, state: str) -> None:
        """Let the logger send what it has, and end it."""
        if self._failed:
            return
        try:
            with say_if_slow(f"waiting for {self.name} to send the last figures"):
                self._waiting.put(state, timeout=LAST_PATIENCE)
                self._thread.join(LAST_PATIENCE)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._fail("it does not end")

    def _work(self, connect: Connect, run: LoggedRun) -> None:
        try:
            logger = connect(run)
            identity, place = getattr(logger, "identity", None), getattr(logger, "place", None)
            if isinstance(identity, str):
                self._keep(self.name, identity)
            if place is not None:
                self._say(f"logging to {self.name}: {place}")
            self.ready.set()
            while not isinstance(item := self._waiting.get(), str):
                logger.log(*item)
            logger.close(item)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - libraries and own code may raise anything
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.ready.set()

    def _fail(self, reason: str) -> None:
        self._failed = True
        first = one_line(reason.strip().partition("\n")[0])[:LONGEST_REASON]
        self._say(f"--logger {self.name}: {first}: it gets no more figures of this run; metrics.jsonl has all")


def _read_identities(path: Path) -> dict[str, str]:
    """Read what loggers call this run; nothing where the file is missing or damaged."""
    try:
        values = read_object(path) if path.is_file() else {}
    except (BadInputError, OSError):
        values = {}
    return {name: text for name, text in values.items() if isinstance(text, str)}
