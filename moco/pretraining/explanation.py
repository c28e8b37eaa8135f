"""What `moco pretrain auto` says: what it chose in three lines, and at the end what was reached and what to do next."""

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
    kept = result.get("kept")
    if kept is not None and kept["step"] == 0:
        return [f"auto: training on did not help: {kept['first_top1']:.1f}% of the monitor's images are right with the "
                f"weights as they were, {kept['last_top1']:.1f}% at the end. The run keeps them unchanged"]  # fmt: skip
    if kept is not None:
        return [f"auto: training on helped: {kept['first_top1']:.1f}% of the monitor's images were right with the "
                f"weights as they were, {kept['top1']:.1f}% are after {kept['step']} steps"]  # fmt: skip
    lines, before, baselines = list[str](), result.get("before", {}), found.get("baselines", {})
    for name, words in TO_BEAT.items():
        if name in baselines:
            lines.append(describe_gain(words, baselines[name]))
    if lines:
        return lines
    if "knn_top1" in before and "knn_top1" in result:
        lines.append(f"auto: kNN in the run: {before['knn_top1']:.1f}% before the first step, "
                     f"{result['knn_top1']:.1f}% at the end, on {int(result['knn_queries'])} images")  # fmt: skip
    else:
        lines.append("auto: there are no labels to say how good the encoder is by: look at it with moco explore")
    return lines


def describe_gain(baseline: str, gain: Mapping[str, float]) -> str:
    """Say whether the encoder is better than a baseline beyond the interval and, where it is not, what to do."""
    if gain["low"] > 0:
        return f"auto: the encoder is clearly better than {baseline}: {gain['difference']:+.1f} points"
    return (
        f"auto: the encoder is NOT clearly better than {baseline}: {gain['difference']:+.1f} points, 95% interval "
        f"{gain['low']:+.1f} to {gain['high']:+.1f}. Give more --minutes, or published weights (--init-weights W)"
    )


def describe_next(run: Path, data: str, *, labelled: bool) -> list[str]:
    """Say where the encoder is, and the next three commands."""
    second = f"linear --weights {run} --data {data}" if labelled else (
        f"embed --weights {run} --data {data} --out features.npz")  # fmt: skip
    return [
        f"auto: the encoder is {run / 'encoder.safetensors'}. Next:",
        f"  moco report {run}",
        f"  moco {second}",
        f"  moco explore {run} --data {data}",
    ]
