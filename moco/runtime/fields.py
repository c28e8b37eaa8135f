"""Fields of the commands' settings: the ranges that their types carry, and the fields that several commands share.

A field's type says which numbers it takes (`epochs: Count = 200`), and `check` reads that. Where a field means the same
in every command its type also says the help text (`device: Device = "auto"`); elsewhere the field's docstring does.
"""

import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tyro.conf import UseAppendAction, arg

from moco.errors import BadInputError, shorten
from moco.runtime.owncode import NamesCode
from moco.runtime.trackers import TRACKERS

Value = TypeVar("Value")


@dataclass(frozen=True)
class Range:
    """The finite numbers from `least` on, or more than `above`, up to `most`."""

    least: int | float = -math.inf
    most: int | float = math.inf
    above: int | float = -math.inf

    def __contains__(self, number: int | float) -> bool:
        return self.least <= number <= self.most and self.above < number < math.inf

    def __str__(self) -> str:
        """Return what an error says after "expected"."""
        bounded = self.most < math.inf
        if not bounded and max(self.least, self.above) == -math.inf:
            return "a finite number"
        if self.least in self:
            return f"{self.least} to {self.most}" if bounded else f"a finite number of {self.least} or more"
        return f"more than {self.above}, at most {self.most}" if bounded else f"a finite number more than {self.above}"


@dataclass(frozen=True)
class Earlier:
    """The value that a config.json from before the field existed stands for, where that is not the default."""

    value: Any
    words: tuple[tuple[Any, Any], ...] = ()
    """How older files wrote a value, and what that is now."""


# --- numbers --------------------------------------------------------------------------------------------------------

YEAR = 366 * 24 * 60 * 60
"""Seconds."""

Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seconds = Annotated[float, Range(above=0, most=YEAR)]
Minutes = Annotated[float, Range(above=0, most=YEAR // 60)]

WarmupEpochs = Annotated[float, Range(0, 10**9)]
Count = Annotated[int, Range(1, 10**9)]
CountOrZero = Annotated[int, Range(0, 10**9)]
"""Images, steps, epochs, neighbours: more than any training has, and small enough that a product fits into 64 bits."""
Repetitions = Annotated[int, Range(1, 1000)]
BatchSize = Annotated[int, Range(1, 2**20)]
"""Images in a batch, or parts or groups of it."""
KeyCountOrZero = Annotated[int, Range(0, 2**24)]
"""Keys in the loss: 2^24 of 128 numbers are 8.6 GB, 256 times as many as the papers' queue holds."""
Width = Annotated[int, Range(1, 2**16)]
"""Features or channels of a layer."""
Side = Annotated[int, Range(1, 2**14)]
"""Pixels along one side of an image."""
Seed = Annotated[int, Range(0, 2**63 - 1)]


# --- fields that read the same in every command ---------------------------------------------------------------------

Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], arg(help="Device to compute on; auto uses a GPU if there is one.")
]
Precision = Annotated[
    Literal["auto", "fp32", "tf32", "bf16", "fp16"],
    arg(
        help="Number format of convolutions and matrix products; auto takes bf16 where the hardware multiplies it "
        "natively, fp16 on older GPUs with tensor cores, else fp32. tf32 (NVIDIA GPUs) rounds fp32 numbers to 10 bits "
        "before it multiplies them. Training in fp16 scales the loss. The loss, the dictionary and the momentum update "
        "of pre-training are always in fp32."
    ),
]
Threads = Annotated[
    Annotated[int, Range(1, 1024)] | None, arg(help="Threads within one operation; by default one per core.")
]
Workers = Annotated[
    Annotated[int, Range(0, 512)] | None,
    arg(
        help="Processes that load images; by default one per core (beside a GPU two fewer), and none for small images, "
        "which are held in memory."
    ),
]
Timeout = Annotated[
    Seconds,
    arg(help="Seconds that a process waits for the others before it gives up and names the one that stalls."),
]
D = arg(metavar="D")
"""How --help writes a set of images, W weights, and RUN a run folder: as the pages do."""
W = arg(metavar="W")
RUN = arg(metavar="RUN")
RUNS = arg(metavar="RUN...")
RunFolder = Annotated[
    Path,
    arg(
        help="Run folder. If it holds a run with the same settings, that run continues; a finished run is not changed."
    ),
]
Loggers = Annotated[
    tuple[str, ...],
    UseAppendAction,
    NamesCode(tuple(TRACKERS)),
    arg(
        metavar="wandb|mlflow|FILE.py:FUNCTION",
        help="Where to send the run's figures as well: Weights & Biases, MLflow, or your own function. It runs "
        "with your permissions, is called once, and returns an object with log(step, figures), which gets every line, "
        "and close(state).",
    ),
]
LogEvery = Annotated[CountOrZero, arg(help="Steps between two lines of metrics (0: never).")]
SgdMomentum = Annotated[Share, arg(help="Momentum of SGD (not m).")]
WeightDecay = Annotated[NotNegative, arg(help="Weight decay of SGD.")]
KnnNeighbours = Annotated[
    Count | None,
    arg(
        help="Neighbours that vote (200 in the papers); by default the number with which the training images "
        "classify each other best."
    ),
]
KnnTemperature = Annotated[Positive, arg(help="A neighbour votes with weight exp(similarity / this temperature).")]
AcceptChangedData = Annotated[
    bool, arg(help="Continue a run even if its images or annotations have changed since it began.")
]
ShownChannels = Annotated[
    tuple[Annotated[int, Range(1, 64)], ...],
    arg(
        metavar="N",
        help="Channels to display: three as red, green and blue (3 2 1), or one as grey; by default the first ones.",
    ),
]
JsonOutput = Annotated[bool, arg(help="End with one JSON object on standard output.")]


# --- checking fields --------------------------------------------------------------------------------------------------


def check(config: Any) -> None:
    """Raise BadInputError naming the first flag with a number that its type does not allow."""
    for name, kind in typing.get_type_hints(type(config), include_extras=True).items():
        for number, allowed in find_ranges(kind, getattr(config, name)):
            if number not in allowed:
                raise BadInputError(f"{flag(name)} is {shorten(str(number))}: expected {allowed}")


def find_ranges(kind: Any, value: Any) -> Iterator[tuple[int | float, Range]]:
    """Yield each number in a value with the range that its type carries, also within unions and tuples."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        yield from ((value, part) for part in parts[1:] if isinstance(part, Range))
        yield from find_ranges(parts[0], value)
    elif origin in (typing.Union, types.UnionType) and value is not None:
        for part in parts:
            yield from find_ranges(part, value)
    elif origin is tuple:
        own = parts[:1] * len(value) if parts[-1] is ... else parts
        for part, number in zip(own, value, strict=True):
            yield from find_ranges(part, number)


def require(value: Value | None) -> Value:
    """Return a value that was left open in the flags and is no longer."""
    assert value is not None
    return value


def flag(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")
