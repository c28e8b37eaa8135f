"""`moco pretrain auto`: the settings of a run for images, machine and time, each with its reason.

The rules are those of docs/results.md and of the papers; how fast candidates train is measured on the images.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco.data.derived import take_evenly
from moco.data.images import SMALL_IMAGE, Images
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import CONTINUED, OF_WEIGHTS, QUICK, RECIPES, REDUCED, TAUGHT
from moco.pretraining.timing import StepTime
from moco.pretraining.ways import Way

SAMPLE = 48
"""Images that are looked at for their size."""
TRIAL_IMAGES = 512
"""Images on which speeds are measured."""
LEAST_SIDE = 16
"""Smaller images are enlarged to this size."""
FEWEST_IMAGES = 4
"""In a batch of two BN groups."""
LEAST_STEPS, LEAST_PASSES = 1500, 5
"""A larger network or larger images are taken where the time suffices for so much with them."""
LEAST_STEPS_TAUGHT = 200
"""A teacher's keys are good from the first step on."""
PASSES_TO_BLEND = 40
"""Passes from which a student may know its images by heart; 60 were tried (docs/studies-of-encoders.md)."""
FEW_STEPS = 50_000
"""Up to so many steps keys of the batch are taken. At 11,700 they were 3.7 points better than a queue, at 600 some 6:
the queue overtakes them later (docs/results.md)."""
IMAGES_FOR_LARGE = {"cpu": 50_000, "cuda": 5_000}
"""From so many images on ResNet-50 is worth trying, by the device; on others as on a CPU."""
WARMUP_SHARE = 0.25
"""Share of a run that is its warm-up at most, where the recipe's would be longer."""

Reasons = dict[str, tuple[Any, str]]
"""A field of PretrainConfig -> its value and why."""
Measure = Callable[[Mapping[str, Any]], StepTime | None]
"""Settings -> what a step takes with them; None where the device has too little memory."""


@dataclass(frozen=True)
class Situation:
    """What the settings are for."""

    n: int
    """Training images."""
    side: int
    """Pixels of their shorter side in the median."""
    device: str
    seconds: float
    """Time for the steps, about."""
    given: Mapping[str, Any]
    """Fields that the user has given."""

    def steps(self, batch: int, step: float) -> int:
        """Compute how many steps the time suffices for, or that are given."""
        epochs, most = self.given.get("epochs"), self.given.get("max_steps")
        given = most or (epochs * max(1, self.n // batch) if epochs else None)
        return int(given or max(1, int(self.seconds / step)))


def settle(way: Way, situation: Situation, measure: Measure, say: Callable[[str], None]) -> Reasons:
    """Derive each setting beside those of the way's recipe, with its reason; the user's own stay."""
    rules = {"quick": settle_scratch, "taught": settle_taught, "reduced": settle_reduced, "continued": settle_continued}
    reasons = rules[way.recipe](way, situation, measure, say)
    return {
        name: (situation.given[name], "as given") if name in situation.given else found
        for name, found in reasons.items()
    }


def complete(way: Way, reasons: Reasons, given: Mapping[str, Any], data: str, out: Any) -> PretrainConfig:
    """Put a config together: the recipe, what was derived, and what was given."""
    values = dict(RECIPES[way.recipe].values)
    if way.recipe == "continued" or "init_weights" in given:  # network and images are those of the weights
        values |= dict.fromkeys((*OF_WEIGHTS, "view_size"))
    derived = {name: value for name, (value, _) in reasons.items()}
    chosen = {"compile": "off", **values, **derived, **given}  # comparing takes minutes that are not planned for
    return PretrainConfig(**{**chosen, "data": data, "out": out})


def settle_scratch(way: Way, situation: Situation, measure: Measure, say: Callable[[str], None]) -> Reasons:
    """Plan from scratch: the largest network and views that the time allows, and a method that suits the length."""
    n, given = situation.n, situation.given
    batch = given.get("batch_size") or batch_for(n, situation.device)
    fixed = {"batch_size": batch, "bn_groups": groups_for(batch), **given}
    size, view = given.get("image_size"), given.get("view_size") or 0
    tries = list(candidates(size or max(situation.side, view), n, situation.device))
    if size is None:
        tries = [{**one, "image_size": max(view, one["image_size"])} for one in tries]
    else:
        tries = [{**one, "image_size": size, "view_size": min(size, one["view_size"])} for one in tries]
    chosen, step = choose_candidate(tries, {**QUICK, **fixed}, situation, measure, say, LEAST_STEPS)
    steps = situation.steps(batch, step)
    why = f"the largest one tried for which the time allows {LEAST_STEPS} steps and {LEAST_PASSES} passes"
    return {
        "image_size": (chosen["image_size"], f"{n} images, their shorter side {situation.side} pixels in the median"),
        "view_size": (chosen["view_size"], why),
        "arch": (chosen["arch"], why),
        "stem": (chosen["stem"], "cifar (3x3) for images of up to 64 pixels, else imagenet (7x7)"),
        "batch_size": (batch, f"a power of two: at most an eighth of {n} images, and 128 on a CPU or 256 elsewhere"),
        "bn_groups": (fixed["bn_groups"], "groups of about 32 images"),
    } | method_for(n, steps)


def settle_taught(way: Way, situation: Situation, measure: Measure, say: Callable[[str], None]) -> Reasons:
    """Plan a small network taught by `way.weights`: the recipe, and the wider of two networks if time allows."""
    size = min(64, max(32, situation.side // 4 * 4))
    common = {"image_size": size, "stem": TAUGHT["stem"] if size > 48 else "cifar", "view_size": None}
    tries = [{**common, "arch": arch} for arch in ("resnet18-w16", TAUGHT["arch"])]
    recipe = "the recipe taught"
    chosen, reasons = _settle_teaching(TAUGHT, recipe, tries, way, situation, measure, say)
    return {
        "arch": (chosen["arch"], f"{recipe}; narrower where the time is less than {LEAST_PASSES} passes"),
        "stem": (chosen["stem"], "cifar (3x3) for images of up to 48 pixels, else imagenet (7x7) without pooling"),
    } | reasons


def settle_reduced(way: Way, situation: Situation, measure: Measure, say: Callable[[str], None]) -> Reasons:
    """Settle a run in which `way.weights` teach themselves images of 64 pixels, within the time."""
    size = min(REDUCED["image_size"], max(32, situation.side // 4 * 4))
    recipe = "the recipe reduced"
    return _settle_teaching(REDUCED, recipe, [{"image_size": size}], way, situation, measure, say)[1]


def _settle_teaching(
    values: Mapping[str, Any], recipe: str, tries: Sequence[Mapping[str, Any]], way: Way, situation: Situation,
    measure: Measure, say: Callable[[str], None],
) -> tuple[Mapping[str, Any], Reasons]:  # fmt: skip
    """Choose one of `tries`, all of one image size, for a student of `way.weights`, and settle the rest by a recipe."""
    batch = situation.given.get("batch_size") or min(values["batch_size"], batch_for(situation.n, situation.device))
    settings = {**values, "teacher": way.weights, "batch_size": batch, **situation.given}
    chosen, step = choose_candidate(tries, settings, situation, measure, say, LEAST_STEPS_TAUGHT)
    passes = situation.steps(batch, step) * batch / situation.n
    warmup = min(values["warmup_epochs"], round(WARMUP_SHARE * passes, 3))
    blended = f"mixed views pay from {PASSES_TO_BLEND} passes on; these are {passes:.1f}"
    return chosen, {
        "teacher": (way.weights, way.why),
        "teacher_size": (way.image_size, "the size at which it did best on your images, or the recipe's"),
        "image_size": (chosen["image_size"], f"{recipe}; at most that of the images, {situation.side} pixels"),
        "batch_size": (batch, f"{recipe}; at most an eighth of {situation.n} images"),
        "warmup_epochs": (warmup, f"{recipe}; at most a quarter of {passes:.1f} passes"),
        "blend": (passes >= PASSES_TO_BLEND, blended),
    }


def settle_continued(way: Way, situation: Situation, measure: Measure, say: Callable[[str], None]) -> Reasons:
    """Settle a run that trains `way.weights` further, at the size at which they do best untrained."""
    n = situation.n
    batch = situation.given.get("batch_size") or min(CONTINUED["batch_size"], batch_for(n, situation.device))
    queue = min(CONTINUED["queue_size"], 1 << max(2, int(math.log2(max(4, n // 2)))))
    recipe = "the recipe continued"
    return {
        "init_weights": (way.weights, way.why),
        "image_size": (way.image_size, "the size at which they did best on your images, or the recipe's"),
        "batch_size": (batch, f"{recipe}; at most an eighth of {n} images"),
        "queue_size": (queue, f"K: {recipe}; at most half of {n} images"),
    }


def method_for(n: int, steps: int) -> Reasons:
    """Choose dictionary, K, m, head, tau, views and rate, by the number of images and of steps."""
    keys = min(65536, 1 << int(math.log2(max(4, n // 4))))
    momentum = round(min(0.999, max(0.99, 1 - 100 / steps)), 5)
    common: Reasons = {
        "augment": (QUICK["augment"], "v2's views were better in our trials, too"),
        "weight_decay": (QUICK["weight_decay"], "the authors' for small sets"),
        "queue_size": (keys, "K: a power of two, at most a quarter of the images (not used with in-batch keys)"),
        "key_momentum": (momentum, f"m: 1 - 100 / {steps} steps, between 0.99 and 0.999"),
    }
    if steps <= FEW_STEPS:
        quick = "as in the recipe quick"
        return common | {
            "dictionary": (
                QUICK["dictionary"],
                f"in-batch keys were 3.7 points better than a queue after 11,700 steps; this run has {steps}",
            ),
            "temperature": (QUICK["temperature"], f"tau: {quick}"),
            "base_lr": (QUICK["base_lr"], quick),
        }
    return common | {
        "dictionary": ("queue", f"in {steps} steps it may overtake in-batch keys; we did not measure such runs"),
        "head": ("mlp", "v2"),
        "temperature": (0.2, "tau: v2, with an MLP head"),
        "base_lr": (0.06, "twice the papers', the batch being counted: runs here are shorter"),
    }


def batch_for(n: int, device: str) -> int:
    """Choose a power of two: at most 128 on a CPU and 256 elsewhere, and at most an eighth of the images."""
    most = 128 if device == "cpu" else 256
    return min(most, 1 << max(2, int(math.log2(max(4, n // 8)))))


def groups_for(batch: int) -> int | None:
    """Choose how many BN groups of at most about 32 images, two or more; None where the batch cannot be parted so."""
    return next((groups for groups in range(max(2, batch // 32), batch // 2 + 1) if batch % groups == 0), None)


def candidates(side: int, n: int, device: str = "cpu") -> Sequence[dict[str, Any]]:
    """List networks and sizes from the cheapest on, for images of that shorter side.

    Small images: views of half the side show things smaller than whole images do, so evaluations shrink those to 1.5
    times the views. Photographs: a crop of 20 to 100% of the area, enlarged to the view, shows things larger, so whole
    images have up to 1.5 times its side (arXiv:1906.06423).
    """
    if side <= SMALL_IMAGE:
        size = max(LEAST_SIDE, side // 4 * 4)
        stem = "cifar" if size <= 64 else "imagenet"
        view = max(LEAST_SIDE, size // 2)
        seen = min(size, view * 3 // 2 // 4 * 4)
        tries = [(arch, stem, seen, view) for arch in ("resnet18-w16", "resnet18-w32", "resnet18")]
        tries += [("resnet18", stem, size, size)]
    else:
        widths = [("resnet18-w16", 64), ("resnet18-w16", 96), ("resnet18-w32", 96), ("resnet18", 96),
                  ("resnet18", 160), ("resnet18", 224)]  # fmt: skip
        least = IMAGES_FOR_LARGE.get(device, IMAGES_FOR_LARGE["cpu"])
        widths += [("resnet50", 224)] if n >= least else []
        views = [(arch, min(size, side // 32 * 32)) for arch, size in widths]
        tries = [(arch, "imagenet", max(view, min(side, view * 3 // 2) // 4 * 4), view) for arch, view in views]
    return [dict(zip(("arch", "stem", "image_size", "view_size"), one, strict=True)) for one in dict.fromkeys(tries)]


def choose_candidate(
    tries: Sequence[Mapping[str, Any]], values: Mapping[str, Any], situation: Situation, measure: Measure,
    say: Callable[[str], None], least_steps: int,
) -> tuple[Mapping[str, Any], float]:  # fmt: skip
    """Choose the last candidate for which the time suffices, and the seconds that its step takes.

    Each is measured, and said. Raises BadInputError where the first one runs out of memory.
    """
    chosen: tuple[Mapping[str, Any], float] | None = None
    batch = values["batch_size"]
    for own in tries:
        settings = {**values, **own, **situation.given}
        size = settings.get("view_size") or settings["image_size"]
        name = f"{settings['arch'] or settings['teacher']} with views of {size} pixels"
        found = measure(settings)
        if found is None:
            say(f"auto: {name}: out of memory")
            break
        say(f"auto: {name}: {batch / found.step:.0f} images/s")
        suffices = situation.seconds / found.step >= max(least_steps, LEAST_PASSES * situation.n / batch)
        if chosen is None or suffices:
            chosen = own, found.step
        if not suffices:
            break  # the next one takes longer
    if chosen is None:
        raise BadInputError(f"out of memory with {tries[0]['arch']}: give a smaller --batch-size")
    return chosen


def typical_side(images: Images) -> int:
    """Compute the median of the shorter sides of some images, in pixels. Raises BadInputError if none is readable."""
    some, sides = take_evenly(images, SAMPLE), []
    for index in range(len(some)):
        try:
            sides.append(min(some[index].shape[1:]))
        except BadInputError:
            continue
    if not sides:
        raise BadInputError("none of the inspected images can be read")
    return int(statistics.median(sides))
