"""`moco pretrain auto`: from the images, the machine and a time budget to the values of a run, each with its reason.

The rules are those of docs/results.md and of the papers; how fast candidates train is measured on the images.
"""

import dataclasses
import io
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import SMALL_IMAGE, Images, hold
from moco.data.loader import choose_workers
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import QUICK
from moco.pretraining.timing import time_training
from moco.runtime import distributed
from moco.runtime.configfile import from_json
from moco.runtime.device import cores, resolve_device
from moco.runtime.fields import Device, Minutes, RunFolder, check, flag

SAMPLE = 48
"""Images that are looked at for their size."""
TRIAL_IMAGES = 512
TRIAL_SECONDS = 2.0
"""How long each candidate is timed."""
TRAINING_SHARE = 0.85
"""Share of the time that training gets; starting, the monitor's looks and saving get the rest."""
FEWEST_IMAGES = 4
"""In a batch of two BN groups."""
EVEN_PASSES = 3
"""From so many passes on whole ones come near enough to the time."""
LEAST_STEPS, LEAST_PASSES = 1500, 5
"""A larger network or larger images are taken where the time suffices for so much with them."""
FEW_STEPS = 10_000
"""Up to so many steps keys of the batch are taken: up to 6,240 they taught most here (docs/results.md)."""
IMAGES_FOR_LARGE = 50_000
"""From so many images on ResNet-50 is worth trying."""


@dataclass(frozen=True)
class AutoConfig:
    """The flags that `moco pretrain auto` chooses by; it takes those of `moco pretrain` too."""

    data: str
    """Images, as for pretrain."""
    out: RunFolder
    minutes: Minutes = 10.0
    """Time budget of the run in minutes."""
    device: Device = "auto"


@dataclass(frozen=True)
class Candidate:
    """A network and a size, from the cheapest on."""

    arch: str
    stem: str
    image_size: int
    view_size: int


Reasons = dict[str, tuple[Any, str]]
"""A field of PretrainConfig -> its value and why."""


def choose_settings(config: AutoConfig, given: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Choose the settings of a run for these images, time and machine, and explain each; `given` ones are kept.

    Raises BadInputError where several processes ask, which would measure different speeds.
    """
    if distributed.world_size() > 1:
        raise BadInputError("moco pretrain auto is for one process: start it so once, then give torchrun its values")
    check(config)
    if (config.out / "config.json").is_file():
        there = from_json(PretrainConfig, (config.out / "config.json").read_bytes(), config.out / "config.json")
        say(f"auto: {config.out} holds a run; its own settings are kept")
        return {name: value for name, value in vars(there).items() if name not in ("data", "out", "json")}
    images = hold(load(config.data)["train"])
    if len(images) < FEWEST_IMAGES:
        raise BadInputError(
            f"--data {config.data}: {len(images)} training image(s), expected at least {FEWEST_IMAGES}, and some "
            f"hundreds to learn anything"
        )
    reasons = derive(images, config, given)
    for name, (value, why) in reasons.items():
        say(f"auto: {flag(name)} {value}: {'as given' if name in given else why}")
    return {name: value for name, (value, _) in reasons.items()}


def derive(images: Images, config: AutoConfig, given: dict[str, Any]) -> Reasons:
    """Derive each setting and its reason, by the rules below."""
    device, side, n = resolve_device(config.device), typical_side(images), len(images)
    batch = given.get("batch_size") or batch_for(n, device)
    fixed = {"batch_size": batch, "bn_groups": groups_for(batch), "device": device, **given}
    chosen, rate, why = choose_candidate(images, side, config, fixed)
    budget = TRAINING_SHARE * 60 * config.minutes * rate
    length = {name: given[name] for name in ("epochs", "max_steps") if given.get(name)} or length_for(budget, n, batch)
    steps = length.get("max_steps") or length["epochs"] * (n // batch)
    reasons: Reasons = {
        "image_size": (chosen.image_size, f"{n} images, their shorter side {side} pixels in the median{why}"),
        "view_size": (chosen.view_size, "what the time suffices for"),
        "arch": (
            chosen.arch,
            f"the largest with which {config.minutes:g} minutes are {LEAST_STEPS} steps, or the least",
        ),
        "stem": (chosen.stem, "a small one up to 64 pixels, else the usual one"),
        "batch_size": (batch, f"a power of two, many to a pass over {n} images, on {device}"),
        "bn_groups": (fixed["bn_groups"], "groups of about 32 images, or as it fits"),
    } | method_for(n, steps)
    reasons["workers"] = (choose_workers(images), f"images in memory need none; {cores()} cores")
    for name, value in length.items():
        reasons[name] = (value, f"{rate:.0f} images/s were measured; {config.minutes:g} minutes less a reserve")
    return {name: (given.get(name, value), reason) for name, (value, reason) in reasons.items()}


def method_for(n: int, steps: int) -> Reasons:
    """Dictionary, K, m, head, tau, views and rate, by the number of images and of steps."""
    keys = min(65536, 1 << int(math.log2(max(4, n // 4))))
    momentum = round(min(0.999, max(0.99, 1 - 100 / steps)), 5)
    common: Reasons = {
        "augment": ("v2", "v2's views were better here too (docs/results.md)"),
        "schedule": ("cosine", "v2"),
        "weight_decay": (5e-4, "the authors' for small sets" if n < IMAGES_FOR_LARGE * 10 else "as for small sets"),
        "mean": (QUICK["mean"], "close to any photographs'"),
        "std": (QUICK["std"], "the same"),
        "queue_size": (keys, "K: a power of two, at most a quarter of the images (not used with keys of the batch)"),
        "key_momentum": (momentum, f"m: 1 - 100 / {steps} steps, between 0.99 and 0.999"),
    }
    if steps <= FEW_STEPS:
        return common | {
            "dictionary": ("in-batch", f"in {steps} steps keys of the batch taught more than a queue"),
            "head": ("linear", "in a short run no worse than v2's"),
            "temperature": (0.1, "tau: the authors' for small images, with a linear head"),
            "base_lr": (0.12, "the best of a trial on CIFAR-10 with keys of the batch"),
        }
    return common | {
        "dictionary": ("queue", f"{steps} steps are enough for it to fill and be renewed"),
        "head": ("mlp", "v2"),
        "temperature": (0.2, "tau: v2, with an MLP head"),
        "base_lr": (0.06, "twice the papers', the batch being counted: runs here are shorter"),
    }


def batch_for(n: int, device: str) -> int:
    """A power of two: at most 128 on a CPU and 256 elsewhere, and at most an eighth of the images."""
    most = 128 if device == "cpu" else 256
    return min(most, 1 << max(2, int(math.log2(max(4, n // 8)))))


def length_for(budget: float, n: int, batch: int) -> dict[str, int]:
    """Epochs in which about `budget` images of n are seen; the number of steps where they would be very few."""
    if budget < EVEN_PASSES * n:
        return {"max_steps": max(1, int(budget / batch))}
    return {"epochs": round(budget / n)}


def groups_for(batch: int) -> int | None:
    """How many BN groups of at most about 32 images, two or more; None where the batch cannot be parted so."""
    return next((groups for groups in range(max(2, batch // 32), batch // 2 + 1) if batch % groups == 0), None)


def candidates(side: int, n: int) -> Sequence[Candidate]:
    """From the cheapest on, for images of that shorter side."""
    if side <= SMALL_IMAGE:
        size = max(16, side // 4 * 4)
        stem = "cifar" if size <= 64 else "imagenet"
        half = Candidate("resnet18-w16", stem, size, max(16, size // 2))
        return tuple(dict.fromkeys((
            half, Candidate("resnet18-w16", stem, size, size), Candidate("resnet18", stem, size, size),
        )))  # fmt: skip
    sizes = [Candidate(arch, "imagenet", min(size, side // 32 * 32), min(size, side // 32 * 32)) for arch, size in (
        ("resnet18-w16", 64), ("resnet18-w16", 96), ("resnet18", 96), ("resnet18", 160), ("resnet18", 224),
    )]  # fmt: skip
    large = [Candidate("resnet50", "imagenet", 224, 224)] if n >= IMAGES_FOR_LARGE else []
    return tuple(dict.fromkeys([*sizes, *large]))


def choose_candidate(
    images: Images, side: int, config: AutoConfig, fixed: dict[str, Any]
) -> tuple[Candidate, float, str]:
    """Choose the last candidate for which the time suffices; return it, its images per second and a text on trials."""
    chosen: tuple[Candidate, float] | None = None
    speeds = []
    size, view = fixed.get("image_size"), fixed.get("view_size") or 0
    for candidate in candidates(size or max(side, view), len(images)):
        if size is not None:
            candidate = dataclasses.replace(candidate, image_size=size, view_size=min(size, candidate.view_size))
        values = {**QUICK, **dataclasses.asdict(candidate), **fixed}
        rate = measure_rate(images, values, config)
        if rate is None:
            break
        speeds.append(f"{candidate.arch} at {candidate.view_size}: {rate:.0f} images/s")
        seen = TRAINING_SHARE * 60 * config.minutes * rate
        if chosen is not None and seen < max(LEAST_STEPS * values["batch_size"], LEAST_PASSES * len(images)):
            break
        chosen = candidate, rate
    assert chosen is not None
    return chosen[0], chosen[1], f"; {'; '.join(speeds)}"


def measure_rate(images: Images, values: dict[str, Any], config: AutoConfig) -> float | None:
    """Measure the loop's images per second on some of the images; None where the device has too little memory."""
    training = PretrainConfig(**{
        **values, "data": config.data, "out": config.out, "dictionary": "in-batch", "max_steps": 1_000_000,
    })  # fmt: skip
    some, nowhere = hold(take_evenly(images, max(TRIAL_IMAGES, 2 * training.batch_size))), io.StringIO()
    try:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):  # a trial reports its speed only
            return float(time_training(training, some, TRIAL_SECONDS)["images_per_second"])
    except torch.OutOfMemoryError:
        return None


def typical_side(images: Images) -> int:
    """The median of the shorter sides of some of the images, in pixels. Raises BadInputError where none is readable."""
    some, sides = take_evenly(images, SAMPLE), []
    for index in range(len(some)):
        try:
            sides.append(min(some[index].shape[1:]))
        except BadInputError:
            continue
    if not sides:
        raise BadInputError("none of the images that were looked at can be read")
    return int(statistics.median(sides))
