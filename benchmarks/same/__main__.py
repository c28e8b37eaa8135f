"""Compares what the working tree computes with what a commit computed, bit for bit.

    python -m benchmarks.same [--against COMMIT] [--only NAME...] [--list]

from the root of the repository. Both sides run the same small trainings and evaluations through their own command line,
one thread each. Exit code 0 says that every case that both sides know is the same, 1 that one is not.
"""

import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.same.cases import CASES, Case
from benchmarks.same.evidence import GOOD, Outcome, digest, verdict
from benchmarks.same.inputs import MAKERS
from benchmarks.same.running import Side, attempt, call, side_by_side
from benchmarks.same.trees import copy_commit, copy_working_tree

ROOT = Path(__file__).parents[2]
COLUMNS = ("encoder", "checkpoint", "figures")


@dataclass(frozen=True)
class Options:
    """What to compare."""

    against: str = "HEAD"
    """The commit that the working tree is compared with."""
    only: tuple[str, ...] = ()
    """Cases to run, instead of all."""
    listed: Annotated[bool, tyro.conf.arg(name="list")] = False
    """List the cases and their command lines, and run none."""


def chosen(names: tuple[str, ...]) -> list[Case]:
    """The cases of these names, all for none. Raises ValueError for a name that no case has."""
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise ValueError(f"--only {name}: not a case: give some of {', '.join(known)}")
    return [known[name] for name in names or known]


def make_inputs(cases: list[Case], folder: Path, side: Side) -> None:
    """Make what the cases read, with the older tree's commands where a command is needed."""
    folder.mkdir()

    def moco(words: str) -> None:
        (error,) = side_by_side([call(side, words.split(), folder)])
        if error:
            raise RuntimeError(f"moco {words}: {error}")

    for name, make in MAKERS.items():
        if any(case.takes(name) for case in cases):
            make(folder / name, moco)


def row(case: Case, before: Outcome, now: Outcome) -> str:
    """The verdict on a case, the SHA-256 of its parts (both where they differ), and the reason."""
    word, reason = verdict(before, now)
    pairs = [(digest(before.parts.get(part, {})), digest(now.parts.get(part, {}))) for part in COLUMNS]
    cells = [old if old == new else f"{old} {new}" for old, new in pairs]
    line = f"{case.name:<24}{word:<18}" + "".join(f"{cell:<26}" for cell in cells)
    return line.rstrip() + (f"\n    {reason}" if reason else "")


def compare(cases: list[Case], against: str, folder: Path) -> bool:
    """Run the cases on both sides, print a line for each, and return whether all is well."""
    before, now = (Side(folder / f"tree-{name}", folder / name) for name in ("before", "now"))
    copy_commit(ROOT, against, before.tree)
    copy_working_tree(ROOT, now.tree)
    for side in (before, now):
        side.folder.mkdir()
        side.require_own_package()
    make_inputs(cases, folder / "inputs", before)
    print(f"{'case':<24}{'':<18}" + "".join(f"{part:<26}" for part in COLUMNS), flush=True)
    words = []
    for case in cases:
        outcomes = side_by_side([attempt(case, side) for side in (before, now)])
        words.append(verdict(*outcomes)[0])
        print(row(case, *outcomes), flush=True)
    print(", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    return all(word in GOOD for word in words)


def main(options: Options) -> int:
    """Compare, or list; the exit code."""
    began = time.monotonic()
    try:
        cases = chosen(options.only)
        if options.listed:
            for case in cases:
                ranks = f" on {case.ranks} ranks" if case.ranks > 1 else ""
                stopped = f", stopped after step {case.stop_after}" if case.stop_after else ""
                print(f"{case.name}{ranks}{stopped}\n    moco {' '.join(case.words)}")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            good = compare(cases, options.against, Path(folder).resolve())
    except ValueError as error:
        print(f"benchmarks.same: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{time.monotonic() - began:.0f} s, {spent.ru_utime + spent.ru_stime:.0f} s of CPU")
    return 0 if good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the folder is removed
    sys.exit(main(tyro.cli(Options)))
