"""Names the file where a read of mapped memory fails: Linux ends a process for it (SIGBUS) without a word."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

ADDRESS_AT, MASK_BYTES, SA_SIGINFO = 16, 128, 4
"""Linux's siginfo_t has the address that could not be read at this byte; its C libraries take masks of this size."""
MAPS = Path("/proc/self/maps")
SHARED_MEMORY = "/dev/shm/"


class _SigAction(ctypes.Structure):
    """C's struct sigaction, as Linux's C libraries have it."""

    _fields_: ClassVar[Any] = [
        ("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * MASK_BYTES), ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]  # fmt: skip


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_kept: list[Any] = []
"""Handlers that C may call at any time."""


def explain_failed_reads(end: Callable[[str], object]) -> None:
    """Call `end` with one line, then leave with exit code 1, where mapped memory cannot be read.

    A file that is cut while it is mapped (pixels and indices of packed images, weights) does this, and so does shared
    memory that is full. A handler of Python's own would run only after the read, which never ends; one of C is called
    in its place. Does nothing but on Linux.
    """
    if sys.platform != "linux":
        return

    def explain(number: int, information: int, context: int) -> None:
        try:
            end(explain_address(ctypes.c_size_t.from_address(information + ADDRESS_AT).value))
        finally:
            os._exit(1)  # to return would read again

    handler = _HANDLER(explain)
    _kept.append(handler)
    action = _SigAction(ctypes.cast(handler, ctypes.c_void_p), (ctypes.c_ubyte * MASK_BYTES)(), SA_SIGINFO, None)
    with contextlib.suppress(AttributeError, OSError):  # without it a failed read ends as it always did
        ctypes.CDLL(None).sigaction(int(signal.SIGBUS), ctypes.byref(action), None)


def explain_address(address: int) -> str:
    """Say which mapped file has an address, and what happened to it."""
    for line in MAPS.read_text(encoding="utf-8", errors="backslashreplace").splitlines():
        span, *_, path = [*line.split(maxsplit=5), ""][:6]
        start, stop = (int(number, 16) for number in span.split("-"))
        if start <= address < stop and path.startswith(SHARED_MEMORY):
            return (
                f"{SHARED_MEMORY.rstrip('/')} is full: give more shared memory (docker run --shm-size 2g), fewer "
                f"--workers or a smaller --batch-size"
            )
        if start <= address < stop and path:
            return f"{path}: truncated, or its disk failed, while it was read: restore the complete file"
    return "memory of this process could not be read: was a file truncated, or did a disk fail?"
