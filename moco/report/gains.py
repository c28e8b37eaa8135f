"""Measures how much a run's features beat the baselines that were evaluated beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moco.errors import counted, spell_images
from moco.pretraining.health import JUDGED, TO_BEAT, accuracy_gain
from moco.report.markup import number, percent, show, to_plain_text
from moco.report.runs import Run

"""The baselines that need no training, by their name in an evaluation: features that do not beat them learned nothing
of use for the classes."""
START = "the network before its first step"
SUPERVISED = "supervised"


@dataclass(frozen=True)
class Gain:
    """An accuracy minus that of a baseline on the same images, in percentage points, with its 95% interval."""

    over: str
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{show_signed(self.difference)} points, 95% interval {show_signed(self.low)} to {show_signed(self.high)}"
        )


@dataclass(frozen=True)
class Measured:
    """An accuracy that an evaluation found, in a sentence, and what it gained over the baselines."""

    sentence: str
    gains: tuple[Gain, ...]


def describe_evaluations(run: Run) -> Iterator[Measured]:
    """Yield the accuracies of `moco knn` and `moco linear`, each with the baselines that it was measured with.

    Those of `TO_BEAT` count as gains, other weights are shown. The interval is the paired one where the evaluation
    holds it, else that of `accuracy_gain` over as many images as were classified. Where neither is known the baseline
    is shown and nothing is gained.
    """
    for name, content in run.evaluations.items():
        top1 = accuracy(content.get("top1"))
        if top1 is None or not name.startswith(("knn", "linear")):
            continue
        count = number(content.get("test")) or number(content.get("queries"))
        beside = content.get("baselines")
        beside = beside if isinstance(beside, dict) else {}
        gains, compared = [], []
        for baseline in (*TO_BEAT, *(name for name in beside if name not in (*TO_BEAT, SUPERVISED))):
            other, words = accuracy(_top1(beside.get(baseline))), TO_BEAT.get(baseline, to_plain_text(baseline))
            if other is None:
                continue
            gain = _gain(words, top1, other, beside[baseline], count)
            gains += [gain] if gain is not None and baseline in TO_BEAT else []
            compared.append(f"{words} for {percent(other)}" + ("" if gain is None else f" ({gain})"))
        supervised = accuracy(_top1(beside.get(SUPERVISED)))
        if supervised is not None:
            compared.append(f"the same network trained with labels for {percent(supervised)}")
        by = "The nearest neighbours' vote" if name.startswith("knn") else "A linear classifier on the frozen features"
        images = "the images" if count is None else counted(show(count, 0), "image")
        images += describe_measured(content)
        sentence = "; ".join([f"{by} is right for {percent(top1)} of {images}", *compared])
        yield Measured(f"{sentence}.", tuple(gains))


def describe_monitor(run: Run) -> Measured | None:
    """Describe what the monitor saw of kNN accuracy; None where it looked for none."""
    if not run.knn:
        return None
    step, last = run.knn[-1]
    if run.knn_before is None:
        return Measured(
            f"kNN accuracy in the run was {percent(last)} at step {step:.0f}; its start was not measured.", ()
        )
    said = f"kNN accuracy in the run went from {percent(run.knn_before)} before the first step to {percent(last)}"
    if run.queries is None:
        return Measured(f"{said}; of how many images is not known.", ())
    gains = [Gain(START, *accuracy_gain(last, run.knn_before, run.queries))]
    said += f" ({gains[0]}; {show(run.queries, 0)} images{describe_training(run.last('knn_trained_on'))})"
    pixels = accuracy(run.last("knn_pixels"))
    if pixels is not None:
        gains.append(Gain(TO_BEAT["pixels"], *accuracy_gain(last, pixels, run.queries)))
        said += f"; {gains[1].over} are right for {percent(pixels)} ({gains[1]})"
    return Measured(f"{said}.", tuple(gains))


def describe_measured(content: Mapping[str, Any]) -> str:
    """Repeat which images an evaluation says it is of; nothing where an older one does not say it."""
    found = content.get("measured_on")
    return f" of {to_plain_text(spell_images(found))}" if isinstance(found, str) else ""


def describe_training(share: float | None) -> str:
    """Say whether a run was trained on the images that its monitor asks for, by their percentage."""
    if share is None:
        return ""
    return ", held out from training" if share == 0 else ", which it was trained on"


def course(run: Run) -> str | None:
    """Say whether kNN accuracy was better before, or still rose at the end."""
    if run.queries is None or len(run.knn) < 3:
        return None
    last, (step, best) = run.knn[-1][1], max(run.knn, key=lambda point: point[1])
    if accuracy_gain(last, best, run.queries)[2] < 0:
        return f"It was better before: {percent(best)} at step {step:.0f}. A shorter run may do as well."
    if accuracy_gain(last, run.knn[-2][1], run.queries)[1] > 0:
        return "Accuracy was still rising at the end: a longer run should give more."
    return None


def describe_kept(run: Run) -> str | None:
    """Say which encoder a run ended with where it kept the best, and what the first and the last reached."""
    result = run.status.get("result")
    kept = result.get("kept") if isinstance(result, dict) else None
    if not isinstance(kept, dict):
        return None
    step, images = number(kept.get("step")), number(kept.get("images"))
    shares = [accuracy(kept.get(name)) for name in ("top1", "first_top1", "last_top1")]
    known = [percent(share) for share in shares if share is not None]
    if step is None or images is None or len(known) < len(shares):
        return None
    by = "views" if kept.get("by") == "views" else "neighbours"
    which = f"of step {step:.0f}" if step else "that it began with, as no later one was clearly better"
    return (
        f"It kept the encoder {which}: {known[0]} of {show(images, 0)} images {JUDGED[by]}, "
        f"{known[1]} by the first encoder and {known[2]} by the last."
    )


def show_signed(value: float) -> str:
    """Show a difference with its sign."""
    return show(value) if value < 0 else f"+{show(value)}"


def accuracy(value: object) -> float | None:
    """Return a percentage, or None for anything else."""
    found = number(value)
    return found if found is not None and 0 <= found <= 100 else None


def _gain(words: str, top1: float, other: float, baseline: Any, count: float | None) -> Gain | None:
    stored = (
        [number(baseline.get(name)) for name in ("difference", "low", "high")] if isinstance(baseline, dict) else []
    )
    known = [value for value in stored if value is not None]
    if len(known) == 3:
        return Gain(words, *known)
    return None if count is None or count < 1 else Gain(words, *accuracy_gain(top1, other, int(count)))


def _top1(value: Any) -> Any:
    return value.get("top1") if isinstance(value, dict) else value
