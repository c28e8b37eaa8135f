"""What each training begins with, done once in the server that all are forked from: half a second of each process.

It starts no thread of torch, which would be missing in what is forked.
"""

from pathlib import Path

from moco.cli import parse
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import load
from moco.data.loader import ViewBatches
from tests.faults.processes import command

parse(command(Path("run")))
ViewBatches(load("digits")["train"], AUGMENTATIONS["cifar"], 12, (0.5,) * 3, (0.5,) * 3, 2)[0]
