"""A verdict on a run in plain words: what its health found, and what its evaluations and its pace add to that."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from moco.errors import counted
from moco.pretraining.health import HEALTHY, Condition
from moco.report.findings import Health, health_of
from moco.report.gains import Gain, course, describe_evaluations, describe_kept, describe_monitor
from moco.report.markup import duration, number, show
from moco.report.runs import Run

Mood = Literal["good", "mixed", "bad", "open"]

SLOWER = 0.7
"""Share of the earlier throughput below which it is worth a word."""

UNSOUND: dict[Condition, tuple[Mood, str]] = {
    "failed": ("bad", "It did not learn"),
    "doubtful": ("mixed", "Its results are doubtful"),
    "undecided": ("open", "It cannot be judged"),
}
"""The headline of a run with a finding, by its condition."""


@dataclass(frozen=True)
class Verdict:
    """A headline, and the sentences below it."""

    mood: Mood
    headline: str
    sentences: tuple[str, ...]


def judge(run: Run) -> Verdict:
    """Say how a run went: by its health, which `pretraining.health` alone decides, and by its evaluations."""
    health, seen, found = health_of(run), describe_monitor(run), list(describe_evaluations(run))
    gains = [gain for one in found for gain in one.gains] or list(seen.gains if seen else ())
    mood, headline = _headline(run, health, gains)
    sentences = [
        *([_diverged(run)] if run.state == "diverged" else []),
        f"Health at step {health.step}: {health.text}",
        *_loss(run),
        *([seen.sentence] if seen else []),
        *filter(None, [course(run), describe_kept(run)]),
        *(one.sentence for one in found),
        *_pace(run),
    ]
    return Verdict(mood, headline, tuple(sentences))


def _headline(run: Run, health: Health, gains: Sequence[Gain]) -> tuple[Mood, str]:
    if run.state == "diverged":
        return "bad", "It diverged"
    if run.state != "done":
        return "open", _unfinished(run)
    unbeaten = [gain.over for gain in gains if gain.low <= 0]
    if health.condition != HEALTHY:
        mood, said = UNSOUND[health.condition]
        if not gains or unbeaten:
            return mood, f"{said}: {health.cause}"
        return "mixed", f"It beats {_listed(gains)}, but {health.cause}"
    if not gains:
        return "mixed", "It learned the task; what that is worth for classes was not measured"
    if unbeaten:
        return "mixed", f"It learned the task, but does not beat {unbeaten[0]}"
    return "good", "It learned"


def _listed(gains: Sequence[Gain]) -> str:
    return " and ".join(dict.fromkeys(gain.over for gain in gains))


def _diverged(run: Run) -> str:
    rate = number(run.config.get("lr"))
    return (
        f"At step {run.step} the loss or a gradient was no longer a finite number, and the run stopped before that "
        f"could spread; the last good checkpoint is kept. Start again with a smaller --lr"
        f"{'' if rate is None else f' (it was {rate:g})'} or with --precision fp32."
    )


def _unfinished(run: Run) -> str:
    done = "" if not run.steps else f" of {run.steps} ({100 * run.step / run.steps:.0f}%)"
    words = {
        "stopped": "It was stopped", "failed": "It failed", "running": "It had not finished",
        "killed": "It was killed", "unknown": "It had not begun",
    }  # fmt: skip
    return f"{words[run.state]}: step {run.step}{done} when this page was made"


def _loss(run: Run) -> list[str]:
    """The last loss, and how often a view found the other view of its image, each beside guessing."""
    loss, chance, others, found = run.last("loss"), run.last("chance_loss"), run.choices, run.last("contrast_accuracy")
    if loss is None or not chance or not others:
        return []
    said = f"The loss ended at {show(loss)}; guessing gives {show(chance)}."
    if found is not None:
        said += f" A view found the other view of its image among {others} in {found:.3g}% of cases; guessing finds "
        said += f"{100 / others:.2g}%."
    return [said]


def _pace(run: Run) -> list[str]:
    sentences = []
    resumes = [line.get("step") for line in run.metrics if line.get("event") == "resume"]
    tried = run.chosen.get("tried")
    trials = [one.get("steps") for one in tried if isinstance(one, dict)] if isinstance(tried, list) else []
    resumed = len(resumes) - (resumes[:1] != [] and resumes[0] in trials)  # auto continues its own trial
    if resumed:
        sentences.append(f"It was interrupted and resumed {counted(resumed, 'time')}.")
    replaced = sum(line.get("event") == "replaced" for line in run.metrics)
    if replaced:
        sentences.append(f"{counted(replaced, 'image')} could not be read; others took their place.")
    speeds = [value for _, value in run.series("images_per_second") if value]
    if not speeds:
        return sentences
    sentences.append(f"It took {duration(run.seconds)}, at a median of {median(speeds):.3g} images per second.")
    quarter = len(speeds) // 4
    if quarter >= 3:
        early, late = median(speeds[:quarter]), median(speeds[-quarter:])
        if late < SLOWER * early:
            sentences.append(
                f"Throughput fell from {early:.0f} to {late:.0f} images per second: another program probably used the "
                f"machine."
            )
    return sentences
