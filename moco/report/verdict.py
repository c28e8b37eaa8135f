"""A verdict on a run in plain words, each sentence with the figure that it rests on."""

import math
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Literal

from moco.report.markup import duration, number, percent, plain, shown
from moco.report.runs import LARGEST_POWER, Run

Mood = Literal["good", "mixed", "bad", "open"]

AT_CHANCE = 0.97
"""Share of the chance loss above which nothing was learned."""
SUSPICIOUS = 99.0
"""Contrast accuracy in percent from which the encoder may be reading something else than the image."""
COLLAPSED = 1.5
"""Effective rank up to which all features point the same way."""
ALIKE = -0.1
"""Uniformity above which features are all alike."""
SLOWER = 0.7
"""Share of the earlier throughput below which it is worth a word."""


@dataclass(frozen=True)
class Verdict:
    """A headline, and the sentences below it."""

    mood: Mood
    headline: str
    sentences: tuple[str, ...]


def judge(run: Run) -> Verdict:
    """Say how a run went."""
    sentences: list[str] = []
    task = _task(run, sentences)
    classes = _classes(run, sentences)
    health = _health(run, sentences)
    evaluated = _evaluated(run, sentences)
    classes = evaluated if classes is None else classes
    _pace(run, sentences)
    if run.state == "diverged":
        return Verdict("bad", "It diverged", (_diverged(run), *sentences))
    if run.state != "done":
        return Verdict("open", _unfinished(run), tuple(sentences))
    if not health:
        return Verdict("bad", "It did not learn: its features are all alike", tuple(sentences))
    if classes is None:
        headlines: dict[bool | None, tuple[Mood, str]] = {
            True: ("mixed", "It learned the task; what that is worth for classes was not measured"),
            False: ("bad", "It did not learn"),
            None: ("open", "It ended; there are no figures to judge it by"),
        }
        return Verdict(*headlines[task], tuple(sentences))
    if classes:
        return Verdict("good", "It learned", tuple(sentences))
    said = "It learned the task, but nothing about the classes" if task else "It did not learn"
    return Verdict("mixed" if task else "bad", said, tuple(sentences))


def queries(run: Run) -> int:
    """Images that the monitor asks about, at most."""
    images = number(run.config.get("knn_images"))
    return max(1, int(images or 10_000) // 5)


def noise(share: float, count: int) -> float:
    """Two standard errors of a percentage over so many images."""
    return 2 * math.sqrt(max(share, 1.0) * max(100 - share, 1.0) / count)


def _diverged(run: Run) -> str:
    rate = number(run.config.get("lr"))
    return (
        f"At step {run.step} the loss or a gradient was no longer a finite number, and the run stopped before that "
        f"could spread; the last good checkpoint is kept. Start again with a smaller --lr"
        f"{'' if rate is None else f' (it was {rate:g})'} or with --precision fp32."
    )


def _unfinished(run: Run) -> str:
    done = "" if not run.steps else f" of {run.steps} ({100 * run.step / run.steps:.0f}%)"
    words = {"stopped": "It was stopped", "running": "It had not finished", "unknown": "It had not begun"}
    return f"{words[run.state]}: step {run.step}{done} when this page was made"


def _task(run: Run, sentences: list[str]) -> bool | None:
    """Whether the loss fell below chance; None where there is none."""
    losses = [value for _, value in run.series("loss") if value is not None]
    chance = run.last("chance_loss")
    if not losses or not chance:
        return None
    keys, batch = number(run.config.get("queue_size")), number(run.config.get("batch_size"))
    if run.config.get("dictionary") == "queue" and keys and batch and run.step * batch < keys:
        sentences.append(
            f"The queue of {shown(keys, 0)} keys was not yet full of images' keys, so its loss of {shown(losses[-1])} "
            f"says little: against random keys any encoder looks good."
        )
        return None
    loss = mean(losses[-5:])
    others, right = run.choices or 1, 100 * math.exp(min(-loss, LARGEST_POWER))
    learned = loss < AT_CHANCE * chance
    said = f"The loss ended at {shown(loss)} (last {min(5, len(losses))} lines), and guessing gives {shown(chance)}"
    if learned:
        sentences.append(
            f"{said}: among {others} keys the right one gets a probability of {right:.3g}% (geometric mean), by "
            f"guessing it would be {100 / others:.2g}%."
        )
    else:
        sentences.append(f"{said}: the views of an image are found no better than by guessing.")
    return learned


def _classes(run: Run, sentences: list[str]) -> bool | None:
    """Whether kNN accuracy rose; None where it was not measured."""
    points = [(step, value) for step, value in run.series("knn_top1") if value is not None]
    if not points:
        return None
    (_, first), (step, last) = points[0], points[-1]
    count = queries(run)
    if len(points) == 1 or points[0][0] > 0:
        sentences.append(f"kNN accuracy in the run was {percent(last)} at step {step:.0f}; its start was not measured.")
        return None if len(points) == 1 else last - first > noise(first, count)
    learned = last - first > noise(first, count)
    comparison = "well above" if learned else ("no better than" if last > first - noise(first, count) else "worse than")
    sentences.append(
        f"By the nearest neighbours among its features {percent(last)} of the monitor's images get the right class, "
        f"{comparison} the {percent(first)} that random weights gave before the first step."
    )
    best_step, best = max(points, key=lambda point: point[1])
    if best - last > noise(best, count):
        sentences.append(
            f"It was better before: {percent(best)} at step {best_step:.0f}. A shorter run may do as well."
        )
    elif learned and len(points) > 2 and last - points[-2][1] > noise(last, count) / 2:
        sentences.append("Accuracy was still rising at the end: a longer run should give more.")
    return learned


def _health(run: Run, sentences: list[str]) -> bool:
    """Whether nothing speaks for a collapse; suspicions get a sentence too."""
    rank, width = number(run.gallery.get("effective_rank")), number(run.gallery.get("feature_width"))
    told = run.status.get("health")
    if isinstance(told, str) and told:
        sentences.append(f"What the run itself said of its health: {plain(told, 600)}")
    uniform = run.last("uniformity")
    accuracy = run.last("contrast_accuracy")
    if accuracy is not None and accuracy >= SUSPICIOUS and run.step > 100:
        sentences.append(
            f"Contrast accuracy reached {percent(accuracy)}. That is suspicious: the encoder may tell keys apart by "
            f"their batch's statistics. Try more --bn-groups than {run.config.get('bn_groups')}, or a longer queue."
        )
    if rank is not None and width is not None:
        collapsed = rank <= COLLAPSED
        sentences.append(
            f"The features spread over about {shown(rank, 1)} of {width:.0f} directions"
            + (": they have collapsed." if collapsed else ".")
        )
        return not collapsed
    if uniform is not None and uniform > ALIKE:
        sentences.append(f"Uniformity is {shown(uniform)}: the features of all images are alike (0 is collapse).")
        return False
    return True


def _evaluated(run: Run, sentences: list[str]) -> bool | None:
    """Whether an evaluation found more than random weights give; None where none was run beside them."""
    better = None
    for name, content in run.evaluations.items():
        beside, top1 = content.get("baselines"), number(content.get("top1"))
        if top1 is None or not name.startswith(("knn", "linear")):
            continue
        beside = beside if isinstance(beside, dict) else {}
        random, supervised = (number(_top1(beside.get(which))) for which in ("random", "supervised"))
        if random is not None and better is not True:
            count = number(content.get("test")) or number(content.get("queries")) or 1000
            better = top1 - random > noise(random, max(1, int(count)))
        parts = [f"random weights {percent(random)}"] if random is not None else []
        parts += [f"the same network trained with labels {percent(supervised)}"] if supervised is not None else []
        by = "The nearest neighbours' vote" if name.startswith("knn") else "A linear classifier on the frozen features"
        compared = f" ({', '.join(parts)})" if parts else ""
        sentences.append(f"{by} is right for {percent(top1)} of the test images{compared}.")
    return better


def _top1(value: Any) -> Any:
    return value.get("top1") if isinstance(value, dict) else value


def _pace(run: Run, sentences: list[str]) -> None:
    resumed = sum(line.get("event") == "resume" for line in run.metrics)
    if resumed:
        sentences.append(f"It was interrupted and went on {resumed} time{'s' if resumed > 1 else ''}.")
    replaced = sum(line.get("event") == "replaced" for line in run.metrics)
    if replaced:
        sentences.append(f"{replaced} image{'s' if replaced > 1 else ''} could not be read; others stood in for them.")
    speeds = [value for _, value in run.series("images_per_second") if value]
    if not speeds:
        return
    sentences.append(f"It took {duration(run.seconds)}, with {median(speeds):.3g} images per second in the median.")
    quarter = len(speeds) // 4
    if quarter >= 3:
        early, late = median(speeds[:quarter]), median(speeds[-quarter:])
        if late < SLOWER * early:
            sentences.append(
                f"It became slower, from {early:.0f} to {late:.0f} images per second: something else ran too."
            )
