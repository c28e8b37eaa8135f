"""The settings of the benchmark: a field is a flag, its docstring the flag's help."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BenchConfig:
    """Measure how fast this machine trains, which share of its peak that is, and what holds it back."""

    only: str | None = None
    """What to measure, separated by commas: peak, step, end-to-end, views, dictionary. By default all of them."""
    seconds: float = 5.0
    """How long each figure is measured, at least; there are 13, and each takes some seconds more to start."""
    seed: int = 0
    """Of everything random."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products in the step; the peak is always that of both."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; views are always made on the CPU."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""
