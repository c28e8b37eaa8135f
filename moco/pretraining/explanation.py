"""What `moco pretrain auto` says: what it chose in three lines, and at the end what was reached and what to do next."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moco.pretraining.config import PretrainConfig
from moco.pretraining.health import TO_BEAT
from moco.pretraining.pace import Pace
from moco.pretraining.ways import Way


def describe_choice(
    config: PretrainConfig, way: Way, pace: Pace, minutes: float, spent: float, n: int, parameters: int
) -> list[str]:
    """Describe network and size, method and why, and the time, a line each."""
    passes, view = pace.max_steps * config.batch_size / n, config.view_size or config.image_size
    return [
        f"auto: network: {config.arch}, {parameters / 1e6:.1f} M parameters, views of {view} pixels, for {n} images",
        f"auto: method: {way.why}",
        f"auto: time: {pace.max_steps} steps of {config.batch_size} images ({passes:.1f} passes), about "
        f"{pace.training / 60:.1f} of {minutes:g} minutes; {spent / 60:.1f} are spent, the rest is for {pace.looks} "
        f"looks and the evaluation. All reasons: {config.out}/auto.json",
    ]


def describe_result(result: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Describe what the run reached, against what: its own figures, and those of the evaluation where there was one."""
    lines, before, kept = list[str](), result.get("before", {}), result.get("kept")
    if kept is not None and kept["step"] == 0:
        lines.append(
            f"auto: training on did not help: {kept['first_top1']:.1f}% of the monitor's images are right with the "
            f"weights as they were, {kept['last_top1']:.1f}% at the end. The run keeps them unchanged"
        )
    elif kept is not None:
        lines.append(
            f"auto: training on helped: {kept['first_top1']:.1f}% of the monitor's images were right with the weights "
            f"as they were, {kept['top1']:.1f}% are after {kept['step']} steps"
        )
    if "top1" in found:
        lines.append(f"auto: the encoder's kNN accuracy is {found['top1']:.1f}% on {found['queries']} images of "
                     f"{found['measured_on']}")  # fmt: skip
    for key, gain in found.get("baselines", {}).items():
        lines.append(describe_gain(TO_BEAT.get(key, key), gain, unchanged=kept is not None and kept["step"] == 0))
    if lines:
        return lines
    if "knn_top1" in before and "knn_top1" in result:
        return [f"auto: kNN in the run: {before['knn_top1']:.1f}% before the first step, {result['knn_top1']:.1f}% at "
                f"the end, on {int(result['knn_queries'])} images"]  # fmt: skip
    return ["auto: there are no labels to say how good the encoder is by: look at it with moco explore"]


def describe_gain(baseline: str, gain: Mapping[str, float], *, unchanged: bool = False) -> str:
    """Say whether the encoder is better than a baseline beyond the interval and, where it is not, what to do.

    Published weights that the run kept `unchanged` are not compared with themselves.
    """
    where, published = f"{baseline} ({gain['top1']:.1f}%)", baseline not in TO_BEAT.values()
    if gain["low"] > 0:
        return f"auto: the encoder is clearly better than {where}: {gain['difference']:+.1f} points"
    interval = f"{gain['difference']:+.1f} points, 95% interval {gain['low']:+.1f} to {gain['high']:+.1f}"
    if not published:
        do = "Give more --minutes, or published weights (--init-weights W)"
    elif unchanged:
        do = "It is these weights"
    elif gain["high"] < 0:
        do = "These weights as they are serve you better"
    else:
        do = "These weights as they are may serve you as well; more --minutes may show a difference"
    return f"auto: the encoder is NOT clearly better than {where}: {interval}. {do}"


def describe_next(run: Path, data: str, *, labelled: bool, speaker: str = "auto: ") -> list[str]:
    """Say where the encoder is, and the next three commands, which a shell takes as they stand."""
    place, images = shlex.quote(str(run)), shlex.quote(data)
    second = f"linear --weights {place} --data {images}" if labelled else (
        f"embed --weights {place} --data {images} --out features.npz")  # fmt: skip
    return [
        f"{speaker}the encoder is {run / 'encoder.safetensors'}. Next:",
        f"  moco report {place}",
        f"  moco {second}",
        f"  moco explore {place} --data {images}",
    ]
