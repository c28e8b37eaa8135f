"""Runs a measurement in its own process."""

import importlib
import multiprocessing
import os
import signal
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from moco.errors import one_line

MOST_SAID = 4096
"""Bytes at the end of what a process said that are looked at."""


def run_alone(target: str, config: Any, folder: Path, case: str) -> dict[str, Any]:
    """Call "module:function" in a fresh process, so that its peak memory is its own; `config` has a `device`.

    Raises what the function raises, and OSError where the process ends without an answer: how, and its last words.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile() as said, receive:
        process = context.Process(target=_answer, args=(send, said.name, target, config, folder, case))
        process.start()
        send.close()
        try:
            outcome = receive.recv()
        except EOFError:
            process.join()
            words = describe_end(process.exitcode or 0, said.read())
            raise OSError(f"measuring {target} {case}: its process {words}") from None
        finally:
            if process.is_alive():
                process.join(1.0)
                process.terminate()
            process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    return dict(outcome)


def describe_end(code: int, said: bytes) -> str:
    """Describe how a process ended by itself, from its exit code (that of a signal is negative) and what it said."""
    if code == -signal.SIGKILL:
        how = "was ended by SIGKILL, which the system sends when memory runs out"
    else:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = said[-MOST_SAID:].decode("utf-8", "replace").strip().splitlines()
    return f"{how}; it said: {one_line(lines[-1])}" if lines else how


def _answer(pipe: Connection, said: str, target: str, config: Any, folder: Path, case: str) -> None:
    """Send the result or the error of a call; what libraries say goes to the file `said`."""
    with Path(said).open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        outcome: Any = run_quietly(target, config, folder, case)
    except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
        outcome = error
    pipe.send(outcome)


def run_quietly(target: str, config: Any, folder: Path, case: str) -> dict[str, Any]:
    """Call "module:function" without what it prints, and add the peak memory of this process and its GPU."""
    module, function = target.split(":")
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        found: dict[str, Any] = getattr(importlib.import_module(module), function)(config, folder, case)
    from moco.runtime.device import peak_memory, resolve_device
    from moco.runtime.machine import gpu

    device = resolve_device(config.device)
    on = {"gpu": gpu()} if device == "cuda" else {}
    return {**found, **on, "peak_memory_mib": round(peak_memory(device) / 2**20)}
