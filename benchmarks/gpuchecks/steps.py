"""The loop's own steps: the same as a CPU's, the same again and after a stop, and what each takes."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.gpuchecks.probe import Probe, probe_steps
from benchmarks.gpuchecks.rows import Row, Setting, relative_error
from moco.bench.flops import step_flops
from moco.bench.photographs import patches
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_batches, build_encoder, resolve_config
from moco.pretraining.recipes import recipe
from moco.pretraining.timing import ENDLESS, ReadyBatches
from moco.runtime.checkpoint import checkpoint_path

TINY: dict[str, Any] = {
    "image_size": 32, "view_size": None, "queue_size": 64, "bn_groups": 4, "log_every": 1, "knn_every": 0,
    "init": "kaiming", "optimizer": "sgd", "dictionary": "queue", "augment": "v2", "json": True, "workers": 0,
}  # fmt: skip
STEPS = 4
VARIANTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "8 groups": ({"bn_groups": 8, "compile": "off"}, "85 to 95", "about 1,100"),
    "1 group": ({"bn_groups": 1, "compile": "off"}, "75 to 90", "about 1,000"),
    "8 groups, deterministic": ({"bn_groups": 8, "compile": "off", "deterministic": True}, "up to 130", ""),
    "8 groups, recompute": ({"bn_groups": 8, "compile": "off", "recompute": True}, "115 to 130", ""),
    "8 groups, compile auto": ({"bn_groups": 8, "compile": "auto"}, "60 to 80", "about 900"),
}
"""What differs, and what an H100 is predicted to take: milliseconds, kernels."""
ON_CPU = ("8 groups", "8 groups, deterministic")


def _quietly(config: PretrainConfig, images: Images, **how: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pretrain(config, images, **how)


def _small(setting: Setting, name: str, **values: Any) -> PretrainConfig:
    arch, batch = ("resnet18-w4", 16) if setting.small else ("resnet18-w16", 64)
    own = {**TINY, "arch": arch, "batch_size": batch, "max_steps": STEPS, "checkpoint_every": STEPS // 2}
    own |= {"threads": setting.threads, **values}
    return recipe("quick", data="patches", out=setting.folder / name, **own)


def _patches(setting: Setting) -> ArrayImages:
    pixels = patches(np.random.default_rng(0), 64 if setting.small else 1024)
    return ArrayImages(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


def _losses(config: PretrainConfig) -> list[float]:
    lines = (config.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def check_equality(setting: Setting) -> Iterator[Row]:
    """Two steps in fp32 from the same batch, on the device and on the CPU: losses, and the weights after them.

    Each step multiplies what rounding changes by ten and more, so more steps would say less.
    """
    images, how = _patches(setting), {"precision": "fp32", "max_steps": 2, "checkpoint_every": 0}
    here = _small(setting, "equal-here", device="cpu", **how)
    there = _small(setting, "equal-there", device=setting.device, **how)
    batch = build_batches(resolve_config(here, images), images)[0]
    for config in (here, there):
        _quietly(config, images, batches=ReadyBatches(batch))
    differences = [abs(a - b) / a for a, b in zip(_losses(here), _losses(there), strict=True)]
    for name, difference in zip(("first loss", "second loss"), differences, strict=True):
        yield Row(name, float(f"{difference:.2e}"), "relative", "below 1e-4", difference < 1e-4)
    found, expected = (load_file(config.out / "encoder.safetensors") for config in (there, here))
    names = [name for name, value in expected.items() if value.is_floating_point()]
    error = relative_error(*(torch.cat([one[name].flatten() for name in names]) for one in (found, expected)))
    yield Row("weights", float(f"{error:.2e}"), "relative", "below 1e-3", error < 1e-3)


def check_repetition(setting: Setting) -> Iterator[Row]:
    """Two runs of the same config, without and with --deterministic; and one that was stopped in the middle."""
    images = _patches(setting)
    for deterministic in (False, True):
        how = {"device": setting.device, "deterministic": deterministic}
        first, again = (_small(setting, f"repeat-{deterministic}-{number}", **how) for number in "ab")
        for config in (first, again):
            _quietly(config, images)
        named = "with --deterministic" if deterministic else "without --deterministic"
        same, largest = _compare(first.out, again.out)
        expected = "equal" if deterministic or not setting.on_gpu else "close"
        right = same or expected == "close"
        yield Row(f"again, {named}", "equal" if same else "close", "", expected, right, {"largest": largest})
    stopped = _small(setting, "repeat-stopped", device=setting.device, deterministic=True)
    shutil.copytree(first.out, stopped.out)
    for name in ("status.json", "encoder.safetensors"):
        (stopped.out / name).unlink()
    checkpoint_path(stopped.out, STEPS).unlink()
    _quietly(stopped, images)
    same, largest = _compare(first.out, stopped.out)
    yield Row("stopped and gone on", "equal" if same else "close", "", "equal", same, {"largest": largest})


def _compare(first: Path, second: Path) -> tuple[bool, float]:
    a, b = (load_file(run / "encoder.safetensors") for run in (first, second))
    largest = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    return all(torch.equal(a[name], b[name]) for name in a), largest


def measure_steps(setting: Setting) -> Iterator[Row]:
    """The step of `moco pretrain v2` on a batch that is on the device: time, kernels, host waits, memory."""
    images = load(str(setting.photographs))["train"]
    for name, (values, predicted, kernels) in VARIANTS.items():
        if not setting.on_gpu and name not in ON_CPU:
            continue
        try:
            yield from _measure_step(setting, images, name, values, predicted, kernels)
        except Exception as error:  # noqa: BLE001 - the other variants are still worth their time
            yield Row(name, f"{type(error).__name__}: {error}"[:300], "", predicted, False)
        if setting.on_gpu:
            torch.cuda.empty_cache()


def _measure_step(
    setting: Setting, images: Images, name: str, values: dict[str, Any], predicted: str, kernels: str
) -> Iterator[Row]:
    config = recipe(
        "v2", data="photographs", out=setting.folder / f"step {name}", device=setting.device, arch=setting.arch,
        image_size=setting.side, batch_size=setting.batch, max_steps=ENDLESS, log_every=0, knn_every=0,
        checkpoint_every=0, json=True, threads=setting.threads, queue_size=64 if setting.small else 65536, **values,
    )  # fmt: skip
    resolved = resolve_config(config, images)
    batch = next(iter(build_batches(resolved, images).run(0, 1, 0)))
    probe = Probe(batch, setting.on_gpu, warm_up=1, timed=2) if setting.small else Probe(batch, setting.on_gpu)
    with contextlib.redirect_stderr(io.StringIO()):
        found = probe_steps(config, images, probe)
    speed = round(1000 * setting.batch / found["ms"], 1)
    setting.speeds[name] = speed
    tflops = speed * step_flops(build_encoder(resolved).to("meta")) / 1e12
    more = {**found, "tflops": round(tflops, 3), **_comparison(config.out)}
    yield Row(name, found["ms"], "ms", predicted, None, more)
    yield Row(f"{name}: images", speed, "images/s", "2,700" if name == "8 groups" else "")
    if setting.on_gpu:
        waits = found["host_waits"]
        yield Row(f"{name}: kernels", found["kernels"], "", kernels)
        yield Row(f"{name}: host waits", waits, "", "0 or 1", waits <= 1, {"where": found["waits"]})
        yield Row(f"{name}: memory", found["peak_gib"], "GiB", "about 23" if name == "8 groups" else "")


def _comparison(run: Path) -> dict[str, Any]:
    """What --compile auto found."""
    path = run / "metrics.jsonl"
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
    found = [line for line in lines if line.get("event") == "compile"]
    return {"compile": found[-1]} if found else {}
