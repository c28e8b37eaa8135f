"""What the check of a GPU prints, and what all of its parts share: sizes, images, clocks."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLASSES = ("left", "right")
"""Folders of the photographs; which photograph lies where says nothing."""


@dataclass(frozen=True)
class Row:
    """One figure: what was predicted, what was found, and where it must be right, whether it is."""

    measure: str
    found: float | str | None
    unit: str = ""
    predicted: str = ""
    passed: bool | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Setting:
    """Where and how large everything is."""

    device: str
    small: bool
    folder: Path
    """For what the parts write."""
    speeds: dict[str, float] = field(default_factory=dict)
    """Images per second of a step alone, by its name, for the parts after it."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is an NVIDIA GPU."""
        return self.device == "cuda"

    @property
    def batch(self) -> int:
        """Images of a step."""
        return 16 if self.small else 256

    @property
    def side(self) -> int:
        """Pixels of a view."""
        return 32 if self.small else 224

    @property
    def arch(self) -> str:
        """The network whose step is timed."""
        return "resnet18-w4" if self.small else "resnet50"

    @property
    def threads(self) -> int | None:
        """Threads within an operation: where it is only tried, others compute too."""
        return 1 if self.small else None

    @cached_property
    def photographs(self) -> Path:
        """JPEG files of 500x375 pixels in two classes, written when they are first asked for."""
        from moco.bench.photographs import write_jpegs

        folder, count = self.folder / "photographs", 16 if self.small else 512
        for number, name in enumerate(CLASSES):
            write_jpegs(folder / name, np.random.default_rng(number), count, (64, 48) if self.small else (500, 375))
        return folder

    def synchronize(self) -> None:
        """Wait until the GPU has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def time(self, function: Callable[[], object], runs: int = 20, warm_up: int = 5) -> float:
        """Seconds of a call, the median of some runs."""
        if self.small:
            runs, warm_up = 2, 1
        for _ in range(warm_up):
            function()
        seconds = []
        for _ in range(runs):
            self.synchronize()
            began = time.perf_counter()
            function()
            self.synchronize()
            seconds.append(time.perf_counter() - began)
        return sorted(seconds)[len(seconds) // 2]


def write_row(part: str, row: Row) -> str:
    """Write a row as a line of JSON."""
    values = {name: value for name, value in asdict(row).items() if value not in (None, "", {})}
    return json.dumps({"part": part, **values})


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|, in fp64 on the CPU."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-30))


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to four digits."""
    return float(f"{1000 * seconds:.4g}")
