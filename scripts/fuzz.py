#!/usr/bin/env python
"""Damage valid files at random and read them: the readers may succeed or raise BadInputError, and nothing else.

    python scripts/fuzz.py --seconds 600 --seed 0 [--only tar,images] [--case images:1234]

Anything else counts: another exception, a crash of the process, a case of more than 20 s (longer on a busy machine) or
3 GiB (an image of the most pixels that are accepted takes up to 2.6). A case is a pure function of (seed, reader,
number), so that it can be repeated. The exit code is 1 where something was found. One process at a time does the work,
with one thread.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from moco.errors import BadInputError
from scripts.fuzz_commands import COMMAND_LINES
from scripts.fuzz_projects import MORE_READERS
from scripts.fuzz_readers import READERS as OWN_READERS
from scripts.fuzz_readers import Reader, Seeds

READERS: dict[str, Reader] = {**OWN_READERS, **MORE_READERS, **COMMAND_LINES}

CASE_SECONDS, CASE_BYTES = 20.0, 3 << 30
CASES, BATCH_SECONDS = 400, 10.0
"""After so many cases, or so long, a new process takes over."""

INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\\",
    b"\n",
    b"[" * 5000,
]


def damaged(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to eight random changes to the content of a file; `other` is another file's."""
    data = bytearray(content)
    for _ in range(int(2 ** rng.integers(0, 4))):
        place = int(rng.integers(0, len(data) + 1))
        if rng.random() < 0.3:
            place = min(place, int(rng.integers(0, 512)))  # headers are where decisions are made
        length = int(2 ** rng.integers(0, 11))
        match int(rng.integers(0, 9)):
            case 0 | 1 if data:
                data[min(place, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
            case 2 if data:
                data[min(place, len(data) - 1)] = int(rng.integers(0, 256))
            case 3:
                chosen = INTERESTING[int(rng.integers(0, len(INTERESTING)))]
                data[place : place + len(chosen)] = chosen
            case 4:
                data[place:place] = INTERESTING[int(rng.integers(0, len(INTERESTING)))]
            case 5:
                del data[place : place + length]
            case 6:
                data[place:place] = data[place : place + length]
            case 7:
                start = int(rng.integers(0, len(other) + 1))
                data[place : place + length] = other[start : start + length]
            case 8 if rng.random() < 0.3:
                del data[place:]
    return bytes(data)


@dataclass
class Tally:
    """What came of one reader's cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    found: dict[str, str] = field(default_factory=dict)
    """Where it failed -> the first case that did, and how."""


def run_case(reader: Reader, seeds: Seeds, name: str, seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Damage a file and read it: (outcome, details)."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        reader(seeds, work, rng, damaged)
    except BadInputError as error:
        return ("refused", "") if "\n" not in str(error) else ("several lines", str(error))
    except Exception as error:  # noqa: BLE001
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "moco" in Path(frame.filename).parts]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        return "found", f"{type(error).__name__} at {where}: {str(error)[:200]}"
    return "read", ""


def work(name: str, seed: int, first: int, last: int, folder: Path, pipe: Connection) -> None:
    """What one process does: cases until it is time to leave."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # decoders in C complain there
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + CASE_BYTES + (1 << 30),) * 2)
    seeds, ends = Seeds(folder), time.monotonic() + BATCH_SECONDS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, last):
        pipe.send(("begin", number, ""))
        outcome, details = run_case(READERS[name], seeds, name, seed, number, folder)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > CASE_BYTES:
            outcome, details = "found", f"memory at {name}: {grown >> 20} MiB"
        pipe.send((outcome, number, details))
        if time.monotonic() > ends:
            break


def batch(name: str, seed: int, first: int, last: int, folder: Path, tally: Tally) -> int:
    """Let a process work on some cases; returns the number of the next one."""
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(name, seed, first, last, folder, its))
    process.start()
    its.close()
    number, begun = first - 1, False
    while True:
        seconds = CASE_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        if not mine.poll(seconds):
            outcome, details = "found", f"hang at {name}: more than {seconds:.0f} s"
        else:
            try:
                outcome, number, details = mine.recv()
            except EOFError:
                process.join()
                if not begun:
                    return number + 1
                outcome, details = "found", f"crash at {name}: exit code {process.exitcode}"
        if outcome == "begin":
            begun = True
            continue
        tally.outcomes[outcome] += 1
        if details:
            tally.found.setdefault(details.split(": ")[0], f"{name}:{number}: {details}")
        if begun and details.startswith(("hang", "crash")):
            process.kill()
            process.join()
            return number + 1
        begun = False


def main() -> int:
    """Fuzz every reader in turn until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(READERS), help="readers, separated by commas")
    parser.add_argument("--case", help="READER:NUMBER, run alone, in this process")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        seeds = Seeds(folder)
        seeds.make()
        if given.case:
            name, number = given.case.split(":")
            print(*run_case(READERS[name], seeds, name, given.seed, int(number), folder))
            return 0
        names: list[str] = given.only.split(",")
        tallies, following = {name: Tally() for name in names}, dict.fromkeys(names, 0)
        spent, ends = dict.fromkeys(names, 0.0), time.monotonic() + given.seconds
        while time.monotonic() < ends:
            name = min(names, key=spent.__getitem__)  # the same time for each
            started = time.monotonic()
            first = following[name]
            following[name] = batch(name, given.seed, first, first + CASES, folder, tallies[name])
            spent[name] += time.monotonic() - started
    return report(tallies, spent)


def report(tallies: dict[str, Tally], spent: dict[str, float]) -> int:
    """Print what came of it; 1 where something was found."""
    for name, tally in tallies.items():
        print(f"{name:<12} {spent[name]:6.0f} s {sum(tally.outcomes.values()):8d} cases  {dict(tally.outcomes)}")
    found = [text for tally in tallies.values() for text in tally.found.values()]
    for text in found:
        print(f"FOUND {text}")
    print(json.dumps({"cases": sum(sum(t.outcomes.values()) for t in tallies.values()), "found": len(found)}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
