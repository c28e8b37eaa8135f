"""How this process gets memory from the system."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Keep freed memory for the next step instead of giving it back to the system; return whether that is possible.

    glibc maps each tensor above 32 MiB anew and unmaps it when it is freed. Every batch then pays for the system's
    zeroing of every page: a fifth of a training step of EfficientNet-Lite0 with 64 views of 128 pixels, and half of
    the time in which it encodes 256.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
