"""What a GPU that has too little memory says: what was needed, what there is, and what to change."""

import re

import torch

ASKED = re.compile(r"Tried to allocate ([\d.]+) (KiB|MiB|GiB)")
"""Matches what torch says of the piece that did not fit."""
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
GIB = 2**30


def describe_shortage(error: torch.OutOfMemoryError, advice: str) -> str:
    """Say in one line how much memory was held when a piece did not fit, how much there is, and the advice."""
    found = ASKED.search(str(error))
    asked = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not torch.cuda.is_available():
        return f"out of memory: {advice}"
    held = torch.cuda.memory_allocated()
    free, total = torch.cuda.mem_get_info()
    others = max(0, total - free - torch.cuda.memory_reserved())
    beside = f", of which others hold {others / GIB:.1f}" if others > GIB / 2 else ""
    return (
        f"out of memory on the GPU: the step held {held / GIB:.1f} GiB and asked for {asked / GIB:.1f} more, and the "
        f"GPU has {total / GIB:.1f}{beside}: {advice}"
    )
