"""A measurement in a process of its own."""

import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def run_alone(target: str, config: Any, folder: Path, case: str) -> dict[str, Any]:
    """Call "module:function" in a fresh process, so that its peak memory is its own; `config` has a `device`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(run_quietly, target, config, folder, case).result()
        except BrokenProcessPool as error:
            raise OSError(f"measuring {target} {case}: its process was killed, perhaps for want of memory") from error


def run_quietly(target: str, config: Any, folder: Path, case: str) -> dict[str, Any]:
    """Call "module:function" without what it prints, and add the peak memory of this process."""
    module, function = target.split(":")
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        found: dict[str, Any] = getattr(importlib.import_module(module), function)(config, folder, case)
    from moco.runtime.device import peak_memory, resolve_device

    return {**found, "peak_memory_mib": round(peak_memory(resolve_device(config.device)) / 2**20)}
