"""What `moco pretrain` says at its end: what was reached, against what, where the encoder is, and what to do next."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from moco.errors import counted
from moco.pretraining.explanation import describe_next
from moco.pretraining.health import CAUSES, TO_BEAT, accuracy_gain


def describe_reached(
    result: Mapping[str, Any], run: Path, data: str, *, labelled: bool, documents: bool = False
) -> list[str]:
    """Describe the result of a run that is finished, a line each."""
    lines = [f"done: {counted(result['step'], 'step')} in {timedelta(seconds=round(result['seconds']))}"]
    if "kept" in result:
        figures = result["kept"]
        lines.append(f"  accuracy of the encoder that is kept: {figures['top1']:.1f}% of {figures['images']} images")
        lines.append(_against("before training", figures["top1"], figures["first_top1"], figures["images"]))
    elif "knn_top1" in result:
        lines += _describe_accuracy(result)
    elif "loss" in result and "chance_loss" in result:
        lines.append(f"  loss {result['loss']:.2f}, where guessing gives {result['chance_loss']:.2f}")
    if result.get("findings"):
        *most, last = (CAUSES[name] for name in result["findings"])
        lines.append(f"  but {' and '.join([', '.join(most), last] if most else [last])} (see health above)")
    return [*lines, *describe_next(run, data, labelled=labelled, documents=documents, speaker="")]


def _describe_accuracy(result: Mapping[str, Any]) -> list[str]:
    """Describe the monitor's last accuracy beside its first one and raw pixels."""
    top1, images = result["knn_top1"], int(result["knn_queries"])
    trained_on = ", which it was trained on" if result.get("knn_trained_on") else ""
    plain = " before whitening (moco knn measures the whitened encoder)" if "whitened" in result else ""
    lines = [f"  kNN accuracy{plain}: {top1:.1f}% of {counted(images, 'image')}{trained_on}"]
    others = {"before training": result.get("before", {}).get("knn_top1"), TO_BEAT["pixels"]: result.get("knn_pixels")}
    return lines + [_against(name, top1, other, images) for name, other in others.items() if other is not None]


def _against(name: str, top1: float, other: float, images: int) -> str:
    difference, low, high = accuracy_gain(top1, other, images)
    word = "better" if low > 0 else "worse" if high < 0 else "not clearly different"
    return f"    {name}: {other:.1f}% ({difference:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}: {word})"
