"""What the check runs on: the card, libraries that are there or lacking, and the limits that figures stand against."""

import importlib
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpuchecks.rows import Row, Setting, milliseconds
from moco.runtime.machine import machine

LACKING = {
    "tyro": "no command can be read: step, equal, command and evaluations fail",
    "simplejpeg": "JPEG files are decoded by Pillow, at half the speed",
    "numba": "views are made by torch's operations, at a fifth of the speed",
    "triton": "BN groups and compiled encoders need it",
    "timm": "networks of timm are missing",
}
"""Packages whose lack changes figures, and how."""


def describe(setting: Setting) -> Iterator[Row]:
    """The machine, and the packages that matter; then what the card reaches in its simplest tasks."""
    facts = machine()
    yield Row("machine", facts.get("gpu") or facts["processor"], more=facts)
    for name, consequence in LACKING.items():
        try:
            importlib.import_module(name)
            yield Row(name, _version(name))
        except Exception as error:  # noqa: BLE001 - a package that is there may fail in any way
            yield Row(name, f"lacking ({type(error).__name__}): {consequence}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield Row("shared memory", round(shutil.disk_usage(shared).total / 2**30, 1), "GiB", "2 or more")
    yield from _limits(setting)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "there"


def _limits(setting: Setting) -> Iterator[Row]:
    """The matrix peak, the copy rate of the memory, and what it takes to bring a batch of crops to the card."""
    size = 256 if setting.small else 8192
    a, b = (torch.randn(size, size, device=setting.device).bfloat16() for _ in range(2))
    seconds = setting.time(lambda: a @ b)
    yield Row("bf16 product", round(2 * size**3 / seconds / 1e12, 2), "TFLOP/s", "798 (H100)")
    blocks = torch.empty(2, 2**20 if setting.small else 2**31, dtype=torch.uint8, device=setting.device)
    seconds = setting.time(lambda: blocks[0].copy_(blocks[1]))
    yield Row("copy in memory", round(blocks.numel() / seconds / 1e12, 3), "TB/s", "3.0 (H100)")
    crops = torch.empty(2, setting.batch, 3, setting.side, setting.side, dtype=torch.uint8)
    there = torch.empty_like(crops, device=setting.device)
    yield Row("crops to the card, pageable", milliseconds(setting.time(lambda: there.copy_(crops))), "ms")
    if setting.on_gpu:
        pinned = crops.pin_memory()
        seconds = setting.time(lambda: there.copy_(pinned, non_blocking=True))
        yield Row("crops to the card, pinned", milliseconds(seconds), "ms", "2 to 3")
