"""How long indices take to make, open and sample, and in how much memory: `python benchmarks/index.py [--folder F]`.

Every figure is taken in a process of its own: seconds of wall clock and of the CPU, and what the process has in
memory more than before (its own, and pages of mapped files, which the system takes back when it needs them). Cold:
the index was dropped from the page cache before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moco.data import columns
from moco.data.folder import open_folder
from moco.data.shards import describe, open_index

SHARDS, LENGTH = 1000, 100_000
"""Shards of zeros (holes, which take no place), and bytes of an image in them."""
SAMPLE = 256


def main() -> None:
    """Make both indices and measure them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the index of shards")
    parser.add_argument("--files", type=int, default=1_000_000, help="in the folder")
    parser.add_argument("--folder", help="where to write, some 600 MB and as many inodes as files")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        return PARTS[arguments.part[0]](Path(arguments.part[1]), arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in PARTS:
            print(f"# {name}", flush=True)
            if "cold" in name:
                drop_from_page_cache(Path(folder))
            own = ["--entries", str(arguments.entries), "--files", str(arguments.files), "--part", name, folder]
            environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
            subprocess.run([sys.executable, __file__, *own], check=True, env=environment)
    return None


def measured(what: str, work: Callable[[], object]) -> None:
    """Do it, and print what it took."""
    before, wall, cpu = memory(), time.perf_counter(), time.process_time()
    result = work()
    wall, cpu, after = time.perf_counter() - wall, time.process_time() - cpu, memory()
    own, mapped = (after[name] - before[name] for name in ("RssAnon", "RssFile"))
    print(f"{what:<55} {wall:8.3f} s {cpu:8.3f} s CPU {own:8.1f} MB own {mapped:8.1f} MB mapped", flush=True)
    del result


def memory() -> dict[str, float]:
    """What this process has in memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(value.split()[0]) / 1024
        for name, _, value in (line.partition(":") for line in lines)
        if "Rss" in name
    }


def drop_from_page_cache(folder: Path) -> None:
    """So that the next to read them reads the disk."""
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def shard_paths(folder: Path) -> list[Path]:
    """Of all shards."""
    return [folder / "shards" / f"{i:06}.tar" for i in range(SHARDS)]


def make_shards(folder: Path, arguments: argparse.Namespace) -> None:
    """An index of entries that all have the same content: zeros."""
    paths, count = shard_paths(folder), arguments.entries
    (folder / "shards").mkdir()
    each = -(-count // SHARDS)
    for path in paths:
        path.touch()
        os.truncate(path, each * LENGTH)
    rows = np.arange(count)
    names = np.tile(np.frombuffer(b"000000/00000000000.jpg", np.uint8), (count, 1))
    for place in range(6):
        names[:, 5 - place] += (rows // each // 10**place % 10).astype(np.uint8)
    for place in range(11):
        names[:, 17 - place] += (rows // 10**place % 10).astype(np.uint8)
    arrays = {
        "shard": (rows // each).astype(np.int32),
        "offset": rows % each * LENGTH,
        "length": np.full(count, LENGTH, np.uint32),
        "checksum": np.full(count, zlib.crc32(bytes(LENGTH)), np.uint32),
        "labels": rows % 1000,
        "names": names.reshape(-1),
        "name_ends": np.arange(count + 1) * names.shape[1],
    }
    facts = {"shards": describe(paths), "classes": [str(i) for i in range(1000)]}
    measured(f"write an index of {count:,} entries", lambda: columns.save_columns(folder / "index", arrays, facts))


def use_shards(folder: Path, arguments: argparse.Namespace) -> None:
    """Open the index, draw entries, read their images."""
    opened = []
    measured(
        f"open an index of {arguments.entries:,} entries, {SHARDS} shards",
        lambda: opened.append(open_index(folder / "index", shard_paths(folder), times=True)),
    )
    images = opened[0]
    assert images is not None
    rows = np.random.default_rng().integers(0, len(images), SAMPLE).tolist()
    columns_of_place = ("shard", "offset", "length", "checksum")
    measured(
        f"  place and name of {SAMPLE} random entries",
        lambda: [([images.arrays[name][row] for name in columns_of_place], images.name(row)) for row in rows],
    )
    measured(f"  their {LENGTH:,} bytes read and checked", lambda: [len(images.encoded(row)) for row in rows])
    measured("  the same again, with all shards open", lambda: [len(images.encoded(row)) for row in rows])


def make_folder(folder: Path, arguments: argparse.Namespace) -> None:
    """Class folders of 1,000 empty files each."""
    for first in range(0, arguments.files, 1000):
        below = folder / "images" / f"n{first // 1000:08}"
        below.mkdir(parents=True)
        for i in range(first, min(first + 1000, arguments.files)):
            os.close(os.open(below / f"{below.name}_{i}.jpg", os.O_CREAT | os.O_WRONLY))


def search_folder(folder: Path, arguments: argparse.Namespace) -> None:
    """The first time."""
    measured(f"search a folder of {arguments.files:,} files, keep it", lambda: open_folder(folder / "images"))


def use_folder(folder: Path, arguments: argparse.Namespace) -> None:
    """Open its index, draw entries."""
    opened = []
    what = f"open the index of {arguments.files:,} files"
    measured(what, lambda: opened.append(open_folder(folder / "images")))
    images = opened[0]
    rows = np.random.default_rng().integers(0, len(images), SAMPLE).tolist()
    measured(
        f"  path and label of {SAMPLE} random entries", lambda: [(images.name(row), images.labels[row]) for row in rows]
    )


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "make shards": make_shards,
    "use shards, cold": use_shards,
    "use shards": use_shards,
    "make folder": make_folder,
    "search folder": search_folder,
    "use folder, cold": use_folder,
    "use folder": use_folder,
}

if __name__ == "__main__":
    main()
