"""What `moco pretrain auto` says: what it chose in three lines, and at the end what was reached and what to do next."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moco.errors import counted, spell_images
from moco.interop.published import short_name
from moco.pretraining.config import PretrainConfig
from moco.pretraining.health import EARLY_STEPS, JUDGED, TO_BEAT, accuracy_gain
from moco.pretraining.pace import Pace
from moco.pretraining.ways import Way

TRAINED = 0.8
"""Share of the time, about, that measurements and training take together."""
UNKNOWN = (
    "auto: without labels moco cannot measure how well the encoder separates your classes: label some hundreds of "
    "images (moco select suggests which), or inspect the map with moco explore"
)


def describe_choice(
    config: PretrainConfig, way: Way, pace: Pace, minutes: float | None, spent: float, n: int, parameters: int
) -> list[str]:
    """Describe network and size, method and why, and the time, a line each; `minutes` is None for a given length."""
    least = math.ceil((spent + EARLY_STEPS * pace.training / pace.max_steps) / (60 * TRAINED))
    more = f"--minutes {least} or more" if minutes is not None else "larger --epochs or --max-steps"
    few = f". Fewer than {EARLY_STEPS} steps may teach little: for more steps, give {more} and another --out"
    passes, view = pace.max_steps * config.batch_size / n, config.view_size or config.image_size
    took = counted(f"{spent / 60:.1f}", "minute") if minutes is None else (
        f"{spent / 60:.1f} of {counted(f'{minutes:g}', 'minute')}")  # fmt: skip
    looks = f"{counted(pace.looks, 'evaluation')} during training and the final one"
    return [
        f"auto: network: {config.arch}, {parameters / 1e6:.1f} M parameters, views of {view} pixels, {n} images",
        f"auto: method: {way.why}",
        f"auto: time: measurements took {took}. The {counted(pace.max_steps, 'step')} of {config.batch_size} images "
        f"({passes:.1f} passes) should take about {pace.training / 60:.1f} minutes"
        f"{f', besides {looks}' if minutes is None else f'; the rest is for {looks}'}"
        f"{few if pace.max_steps < EARLY_STEPS else ''}. All reasons: {config.out}/auto.json",
    ]


def describe_result(
    result: Mapping[str, Any], found: Mapping[str, Any], *, taught: bool = False, labelled: bool = False,
    weights: bool = False,
) -> list[str]:  # fmt: skip
    """Describe what the run reached, against what: its own figures, and those of the evaluation where there was one.

    Where it had no published `weights` to choose, these are advised if the encoder is not better than a baseline.
    """
    advice = "Give more --minutes" + ("" if weights else ", or published weights (--init-weights W)")
    lines, before, kept = list[str](), result.get("before", {}), result.get("kept")
    judged = "" if kept is None else JUDGED[kept.get("by", "neighbours")]
    if kept is not None and kept["step"] == 0:
        lines.append(
            f"auto: training did not clearly improve the weights: {kept['first_top1']:.1f}% of {kept['images']} "
            f"images {judged} before it, {kept['last_top1']:.1f}% after it. The run keeps the weights unchanged"
        )
    elif kept is not None:
        lines.append(
            f"auto: training improved the weights: {kept['first_top1']:.1f}% of {kept['images']} images {judged} "
            f"before it, {kept['top1']:.1f}% after {counted(kept['step'], 'step')}"
        )
    unchanged = kept is not None and kept["step"] == 0 and "whitened" not in result
    if "top1" in found:
        lines.append(f"auto: the encoder's kNN accuracy is {found['top1']:.1f}% on "
                     f"{counted(found['queries'], 'image')} of {spell_images(found['measured_on'])}")  # fmt: skip
    for key, gain in found.get("baselines", {}).items():
        lines.append(describe_gain(TO_BEAT.get(key, key), gain, advice, unchanged=unchanged))
    if "retrieval" in result:
        return [*lines, *describe_views(result, advice, taught=taught, kept=kept is not None)]
    if not lines and "knn_top1" in before and "knn_top1" in result:
        lines.append(
            f"auto: kNN in the run: {before['knn_top1']:.1f}% before the first step, {result['knn_top1']:.1f}% at the "
            f"end, on {counted(int(result['knn_queries']), 'image')}"
        )
    if labelled and not found:
        lines.append("auto: no time was left to compare the encoder with its baselines: moco knn does")
    return lines or [UNKNOWN]


def describe_views(result: Mapping[str, Any], advice: str, *, taught: bool, kept: bool) -> list[str]:
    """Say without labels whether the encoder is better than it began, as far as views tell, and that no more is known.

    Of a run that `kept` its best encoder that is said already, and views do not tell for one that was `taught`.
    """
    now, n, before = result["retrieval"], int(result["retrieval_images"]), result.get("before", {}).get("retrieval")
    if taught:
        return [f"{UNKNOWN}. What a teacher changes cannot be seen in views"]
    if kept or before is None:
        return [UNKNOWN]
    _, low, high = accuracy_gain(now, before, n)
    shares = f"{now:.1f}% of {n} images find their own second view, {before:.1f}% did with the initial weights"
    if low > 0:
        return [f"auto: {shares}. That is a good sign but no proof", UNKNOWN]
    said = "seems WORSE than" if high < 0 else "is NOT clearly better than"
    return [f"auto: the encoder {said} its initial weights: {shares}. {advice}", UNKNOWN]


def describe_gain(baseline: str, gain: Mapping[str, float], advice: str, *, unchanged: bool = False) -> str:
    """Say whether the encoder is better than a baseline beyond the interval and, where it is not, what to do.

    Published weights that the run kept `unchanged` are not compared with themselves.
    """
    published = baseline not in TO_BEAT.values()
    size = f" at {gain['image_size']} pixels" if published and "image_size" in gain else ""
    where = f"{short_name(baseline)}{size} ({gain['top1']:.1f}%)"
    said = f"auto: the encoder is {_describe_lead(where, gain)}"
    if gain["low"] > 0:
        return said
    if not published:
        do = advice
    elif unchanged:
        do = "The run kept these weights"
    elif gain["high"] < 0:
        do = "Use these weights instead"
    else:
        do = "These weights may be as good without training; more --minutes may show a difference"
    return f"{said}. {do}"


def _describe_lead(where: str, gain: Mapping[str, float]) -> str:
    """Say whether an accuracy is better than another one beyond the interval, and by how much."""
    points = f"{gain['difference']:+.1f} points"
    if gain["low"] > 0:
        return f"clearly better than {where}: {points}"
    said = "clearly WORSE" if gain["high"] < 0 else "NOT clearly better"
    return f"{said} than {where}: {points}, 95% interval {gain['low']:+.1f} to {gain['high']:+.1f}"


def describe_joined(published: str, path: Path, found: Mapping[str, Any], run: str) -> str:
    """Say what the encoder of a run reaches together with published weights, and whether that is more than either."""
    name, baselines = short_name(published), found["baselines"]
    said = f"auto: joined with {name} ({path}), it reaches {found['top1']:.1f}%"
    where = f"{name} ({baselines[published]['top1']:.1f}%)"
    return f"{said}: {_describe_lead('alone', baselines[run])}; {_describe_lead(where, baselines[published])}"


def describe_next(
    run: Path, data: str, *, labelled: bool, documents: bool = False, speaker: str = "auto: ",
    beside: str | None = None, joined: Path | None = None,
) -> list[str]:  # fmt: skip
    """Say where the encoder is, and the next commands, which a shell takes as they stand: documents have no page.

    `beside` are published weights that the encoder can be joined with; `joined` is the encoder joined with them, where
    that is the better one.
    """
    place, images = shlex.quote(str(run)), shlex.quote(data)
    best = place if joined is None else shlex.quote(str(joined))
    second = f"linear --weights {best} --data {images}" if labelled else (
        f"embed --weights {best} --data {images} --out features.npz")  # fmt: skip
    better = "" if joined is None else f", joined with the weights it is {joined}"
    lines = [
        f"{speaker}the encoder is {run / 'encoder.safetensors'}{better}. Next:",
        f"  moco report {place}",
        f"  moco {second}",
    ]
    if not documents:
        lines.append(f"  moco explore {place} --data {images}")
    if beside is not None:
        lines.append(f"  moco join --weights {place} {shlex.quote(beside)} --data {images} --out joined.safetensors")
    return lines
