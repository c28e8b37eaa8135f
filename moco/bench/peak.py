"""The machine's matrix peak: the fastest product that it can be made to do."""

import time
from pathlib import Path
from typing import Any

import torch

from moco.bench.config import BenchConfig
from moco.runtime.device import resolve_device, set_precision, set_threads

SIZES = (256, 512, 1024, 2048, 4096, 8192)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
LEAST = 3
"""Products that are timed of each size, at least."""


def measure_peak(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Return the highest GFLOP/s of several timed square matrix products, over the sizes that time allows."""
    threads, device = set_threads(config.threads), resolve_device(config.device)
    set_precision("tf32" if case == "tf32" else "fp32")
    best, best_size, end = 0.0, 0, time.perf_counter() + config.seconds
    for size in SIZES:
        a, b = (torch.randn(size, size, device=device).to(DTYPES[case]) for _ in range(2))
        times = _times(a, b, config.seconds / len(SIZES))
        speed = 2 * size**3 / min(times) / 1e9
        if speed > best:
            best, best_size = speed, size
        if time.perf_counter() + 8 * (LEAST + 1) * min(times) > end:  # the next size takes eight times as long
            break
    return {"gflops": round(best, 2), "size": best_size, "threads": threads}


def _times(a: torch.Tensor, b: torch.Tensor, seconds: float) -> list[float]:
    """Seconds of each of several products a b, after one that does not count."""
    out, times = a @ b, list[float]()
    synchronize(a.device.type)
    end = time.perf_counter() + seconds
    while len(times) < LEAST or time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(a.device.type)
        times.append(time.perf_counter() - started)
    return times


def synchronize(device: str) -> None:
    """Wait until the device has finished its work; a CPU always has."""
    if device != "cpu":
        torch.accelerator.synchronize()
