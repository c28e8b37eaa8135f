"""The settings of the benchmark: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass

from moco.runtime.fields import Device, JsonOutput, Precision, Seconds, Seed, Threads


@dataclass(frozen=True)
class BenchConfig:
    """Measure how fast this machine trains, and what limits it."""

    only: str | None = None
    """Measurements to run, separated by commas: peak (matrix products in fp32 and bf16; on a GPU also in fp16 and
    TF32), step (training on images that are ready), end-to-end (with loading), views (made on the CPU), dictionary
    (the queue). By default all of them."""
    seconds: Seconds = 5.0
    """Minimum duration of each measurement, in seconds. Starting one takes a few seconds more."""
    seed: Seed = 0
    """Seed of everything random."""
    precision: Precision = "auto"
    device: Device = "auto"
    threads: Threads = None
    json: JsonOutput = False
