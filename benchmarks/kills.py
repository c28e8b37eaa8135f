"""SIGKILLs at random moments: every run, resumed from its newest checkpoint, must end as if nothing had happened.

    python -m benchmarks.kills [--kills 100] [--seed 0] [--folder FOLDER]

from the root of the repository. The kills are spread over runs with each dictionary, on one and on two ranks; with two,
half of them hit one rank only, and the other must end by itself. A run that ends before its kills are used up is
compared, and another is begun.
"""

import random
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import tyro
from rich.console import Console
from rich.table import Table

from moco.core.dictionary import Mechanism
from moco.runtime.checkpoint import newest_checkpoint
from tests.faults.processes import (
    Training,
    assert_same_end,
    command,
    finish,
    kill_all,
    lines,
    resumed,
    start,
    status,
    until,
)

STEPS, CHECKPOINT_EVERY = 60, 3
MOST_STEPS, MOST_SECONDS, START_SECONDS = 16, 0.5, 3.0
"""Four of five kills come up to half a second after up to 16 further steps, one within three seconds of the start."""


@dataclass(frozen=True)
class Options:
    """What to do."""

    kills: int = 100
    """How many, in all."""
    seed: int = 0
    """Of the moments."""
    parallel: int = 2
    """Kinds of run that go on at a time."""
    folder: Path | None = None
    """Where the runs go; by default a folder that is removed afterwards."""


@dataclass
class Tally:
    """What happened to the runs of one kind."""

    dictionary: str
    ranks: int
    kills: int = 0
    while_starting: int = 0
    """Kills before a step was logged."""
    of_one_rank: int = 0
    resumed: list[int] = field(default_factory=list)
    """The step of every resume event that was logged after a kill where there was a checkpoint."""
    lost: list[int] = field(default_factory=list)
    """Steps logged before a kill, and not in the newest checkpoint."""
    runs: int = 0
    """Ended, and identical to the undisturbed run."""


def kill_runs(tally: Tally, kills: int, folder: Path, chance: random.Random) -> None:
    """Kill runs of one kind until the number is reached, and let the last one end."""
    flags = {"max_steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "dictionary": tally.dictionary, "timeout": 20}
    whole = folder / "whole" / "run"
    whole.parent.mkdir(parents=True, exist_ok=True)
    finish(command(whole, **flags), whole.parent, ranks=tally.ranks)
    workers = 1 if tally.dictionary == "queue" else 0
    while tally.kills < kills:
        run = folder / str(tally.runs) / "run"
        run.parent.mkdir()
        while not attempt(tally, run, command(run, workers=workers, **flags), kills, chance):
            pass
        assert_same_end(run, whole, STEPS)
        tally.runs += 1


def attempt(tally: Tally, run: Path, arguments: list[str], kills: int, chance: random.Random) -> bool:
    """Start a run or go on with it, and kill it at a random moment where kills are left; whether it came to its end."""
    newest = newest_checkpoint(run)
    expected, before = newest[2]["step"] if newest else 0, len(resumed(run))
    training = start(arguments, run.parent, ranks=tally.ranks)
    codes = wait(training, run, expected, chance) if tally.kills < kills else training.exit_codes()
    killed = any(code is None for code in codes)
    if killed:
        tally.kills += 1
        if tally.ranks > 1 and chance.random() < 0.5:
            tally.of_one_rank += 1
            training.send(signal.SIGKILL, chance.randrange(tally.ranks))
            ends = training.exit_codes()
            assert None not in ends, f"a rank hangs: {ends}"
        training.kill()
    resumes = resumed(run)[before:]
    assert resumes in ([], [expected]), (
        f"{run} was resumed at {resumes}, and its newest checkpoint was of step {expected}"
    )
    if expected:
        tally.resumed += resumes
    if not killed:
        assert set(codes) == {0}, f"{codes}\n" + "\n".join(training.text(rank) for rank in range(tally.ranks))
        return True
    logged = [line["step"] for line in lines(run, "loss")]
    newest = newest_checkpoint(run)
    after = newest[2]["step"] if newest else 0
    assert after >= expected, f"{run} had a checkpoint of step {expected}, and now {after}"
    tally.while_starting += not logged or logged[-1] <= expected
    tally.lost.append(max(0, (logged[-1] if logged else 0) - after))
    return False


def wait(training: Training, run: Path, step: int, chance: random.Random) -> list[int | None]:
    """Wait for a random moment and tell how the processes ended, None for those that go on."""
    if chance.random() < 0.2:
        return training.exit_codes(seconds=chance.uniform(0, START_SECONDS))
    wanted, own = step + chance.randint(1, MOST_STEPS), training.processes[0].pid

    def is_there() -> bool:
        if None not in training.exit_codes(seconds=0):
            return True
        started = (run / "status.json").exists() and status(run)["pid"] == own
        return started and any(line["step"] >= wanted for line in lines(run, "loss"))

    until(is_there, f"step {wanted} of {run}")
    return training.exit_codes(seconds=chance.uniform(0, MOST_SECONDS))


def shown(tallies: list[Tally]) -> Table:
    """The figures of every kind of run, and their sum."""
    table = Table("dictionary", "ranks", "kills", "of one rank", "before a step", "resumed", "at steps", "lost", "runs")
    for tally in tallies:
        steps = f"{min(tally.resumed)} to {max(tally.resumed)}" if tally.resumed else "-"
        lost = f"{sum(tally.lost) / max(1, len(tally.lost)):.1f}, at most {max(tally.lost, default=0)}"
        counts = tally.kills, tally.of_one_rank, tally.while_starting, len(tally.resumed)
        table.add_row(tally.dictionary, str(tally.ranks), *map(str, counts), steps, lost, f"{tally.runs} identical")
    return table


def main(options: Options) -> None:
    """Kill, compare, and print the figures; an assertion fails where anything differs."""
    began, console = time.monotonic(), Console(width=120, highlight=False)
    tallies = [Tally(dictionary, ranks) for dictionary in get_args(Mechanism) for ranks in (1, 2)]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.parallel) as pool:

        def one_kind(number: int) -> None:
            tally, chance = tallies[number], random.Random(options.seed + number)  # noqa: S311
            folder = (options.folder or Path(temporary)) / f"{tally.dictionary}-{tally.ranks}"
            kill_runs(tally, (options.kills + number) // len(tallies), folder, chance)
            console.print(tally)

        try:
            list(pool.map(one_kind, range(len(tallies))))
        finally:
            kill_all()
    console.print(shown(tallies))
    total, resumes = sum(tally.kills for tally in tallies), [step for tally in tallies for step in tally.resumed]
    assert all(step > 0 for step in resumes)
    console.print(
        f"{total} kills, {len(resumes)} resumptions from a checkpoint, all at its step (more than 0); "
        f"{sum(tally.runs for tally in tallies)} runs, all identical to the undisturbed ones; "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
