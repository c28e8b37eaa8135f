"""What a user types: the run from JPEG files, stopped and gone on; then the evaluations, export and a transfer step."""

import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpuchecks.rows import Row, Setting
from moco.cli import run
from moco.runtime.device import cores
from tests.transfer.scenes import write

STOPPED = 75
"""Exit code of a run that saved after a signal."""
PATIENCE = 180.0
"""Seconds after which a command that does not go on is given up."""


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics with a loss; the last may be half a line."""
    path = folder / "metrics.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if "loss" in line]


def _flags(setting: Setting, out: str, steps: int) -> dict[str, Any]:
    return {
        "data": setting.photographs, "out": setting.folder / out, "device": setting.device, "arch": setting.arch,
        "image_size": setting.side, "batch_size": setting.batch, "queue_size": 16 if setting.small else 512,
        "max_steps": steps, "log_every": 1 if setting.small else 5, "knn_every": 0, "checkpoint_every": 0,
        "compile": "off",
        **({"threads": 1} if setting.small else {}),
    }  # fmt: skip


def measure_command(setting: Setting) -> Iterator[Row]:
    """`moco pretrain v2` from JPEG files: images per second by its log, and the share of time it waits for data."""
    steps, speeds = 3 if setting.small else 60, dict[int, float]()
    for workers in (0,) if setting.small else sorted({max(1, cores() - 2), cores()}):
        flags = {**_flags(setting, f"workers-{workers}", steps), "workers": workers}
        _run(setting, flags)
        later = _lines(flags["out"])[1 if setting.small else 4 :]
        speeds[workers] = statistics.median(line["images_per_second"] for line in later)
        wait = statistics.median(line["waiting_for_data"] for line in later)
        yield Row(f"{workers} workers", speeds[workers], "images/s", "2,600")
        yield Row(f"{workers} workers: waited for data", wait, "%", "below 5")
    alone = setting.speeds.get("8 groups")
    if alone is not None:
        share = round(100 * max(speeds.values()) / alone, 1)
        yield Row("of the step alone", share, "%", "95 or more", share >= 95 if setting.on_gpu else None)
    if not setting.small:
        yield from _stop_and_resume(setting)


def _run(setting: Setting, flags: dict[str, Any]) -> None:
    """Run the command: in a process of its own, or where it is only tried, in this one."""
    if setting.small:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run("pretrain", "v2", **flags)
        return
    done = subprocess.run(_command(flags), capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-500:]}")


def _command(flags: dict[str, Any]) -> list[str]:
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "moco", "pretrain", "v2", *words]


def _stop_and_resume(setting: Setting) -> Iterator[Row]:
    """Ask a run to end with SIGTERM after some steps, and go on with it."""
    flags = _flags(setting, "stopped", 40)
    process = subprocess.Popen(_command(flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not _lines(flags["out"]) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    yield Row("stopped by a signal", code, "exit code", str(STOPPED), code == STOPPED)
    resume = [sys.executable, "-m", "moco", "resume", str(flags["out"])]
    done = subprocess.run(resume, capture_output=True, text=True, timeout=PATIENCE)
    last = _lines(flags["out"])[-1]["step"]
    right = (done.returncode, last) == (0, 40)
    yield Row("resumed", done.returncode, "exit code", "0", right, {"last step": last, "said": done.stderr[-300:]})


def measure_evaluations(setting: Setting) -> Iterator[Row]:
    """The evaluations of a network of random weights, its export, and one step of transfer with its evaluation."""
    start = {**_flags(setting, "evaluated", 1), "workers": 0 if setting.small else max(1, cores() - 2)}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run("pretrain", "v2", **start)
    weights = {"weights": start["out"]}
    threads = {"threads": 1} if setting.small else {}
    common = {**weights, **threads, "data": setting.photographs, "device": setting.device, "workers": start["workers"]}
    scenes = write("voc", setting.folder / "scenes", 2, (96, 64) if setting.small else (500, 375))
    form = "safetensors" if setting.small else "torchvision"
    tiny = {"train_sizes": (48, 64), "test_size": 64, "longest_side": 96, "head_channels": 8, "regions": 8}
    sizes = tiny if setting.small else {}
    transfer = {
        **weights, "data": scenes, "out": setting.folder / "transferred", "device": setting.device, "max_steps": 1,
        "batch_size": 2, "precise_bn": 0, "workers": 0, "shown_images": 0, **sizes, **threads,
    }  # fmt: skip
    commands: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        (("knn",), {**common, "baseline": False}, "below 10"),
        (("linear",), {**common, "baseline": False}, "below 15"),
        (("embed",), {**common, "out": setting.folder / "features.npz"}, "below 10"),
        (("export",), {**weights, "format": form, "out": setting.folder / "exported"}, "below 10"),
        (("transfer", "voc-dc5"), transfer, "below 20"),
    ]
    for words, flags, predicted in commands:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = run(*words, **flags)
        more: dict[str, Any] = {name: result[name] for name in ("top1", "loss", "images") if name in result}
        yield Row(" ".join(words), round(time.perf_counter() - began, 2), "s", predicted, True, more)
