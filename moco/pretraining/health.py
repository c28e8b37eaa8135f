"""The one judge of a run: settings and figures -> findings, each with what was found, why it matters and what to do.

A run stores what is found here, and reports repeat it (docs/measurements.md has every threshold with its reason). This
module imports no torch, since reports do not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moco.errors import counted
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import negatives
from moco.runtime.fields import require

Condition = Literal["healthy", "undecided", "doubtful", "failed"]
SEVERITY: tuple[Condition, ...] = ("healthy", "undecided", "doubtful", "failed")
"""What findings mean for a run, from best to worst: nothing is wrong; nothing can be said yet; its figures mean less
than they seem to; it learns nothing."""
HEALTHY: Condition = "healthy"
TO_BEAT = {"random": "random weights", "pixels": "raw pixels"}
"""Baselines that an encoder must beat before it is said to have learned: their keys in a result, and their names."""
JUDGED = {"neighbours": "are classified correctly by their neighbours", "views": "find their own second view"}
"""What can be said of single images: by the labels of their neighbours or, without labels, by their views."""

CAUSES = {
    "few": "its images are too few",
    "short": "it is too short",
    "blank": "most of its views are blank",
    "dark": "most of its views are nearly black",
    "filling": "its dictionary still holds random keys",
    "collapsed": "its features have collapsed",
    "stale": "its oldest keys are stale",
    "leak": "its task is too easy",
    "worse": "its features tell the classes apart less well than at the start",
    "lost": "fewer of its images find their own second view than at the start",
    "chance": "its loss is at chance",
    "unmeasured": "no loss is on record",
    "early": "it has only begun",
}
"""The findings by name, as a clause for headlines."""

EARLY_STEPS = 200
"""Until then no loss shows whether a run learns: the encoder changes so fast at first that old keys can be recognised
by their age (docs/results.md), and features that look alike spread out later. A shorter run cannot be judged ..."""
EARLY_FILLS = 8
"""... and a loss at chance is normal until the queue was filled this often: with K = 65536 one stood at 11.09
for a few epochs of 500 steps, then fell (DTennant/CL-Visualizing-Feature-Transformation, issue 1) ..."""
EARLY_EPOCHS = 10
"""... and with a memory bank until each image was seen this often: its entries are as old as the last epoch."""
AT_CHANCE = 0.01
"""A loss that is not this share of log(K+1) below it shows nothing learned. Encoders that cannot learn (lr 1e-12) stand
0.4 to 1.0% above it, those of docs/studies that learned least 2.5 to 4% below."""
FOUND_BY_ALL = 99.0
"""Contrast accuracy, in percent: an honest run on ImageNet stands at 77 after 34 epochs (facebookresearch/moco, issue
38), and with a leak it passes 99.9 (v1, Fig. A.1)."""
COLLAPSED_RANK = 2.0
"""Effective rank below which all images give nearly one direction; 1 is a single one."""
COLLAPSED_UNIFORMITY = -0.05
"""Log of the mean of exp(-2 distance^2) above which features are alike: their mean squared distance is below 0.025.
Random weights can start there: on photographs of hands they stood at -0.006 to -0.014."""
FEW_IMAGES = 100
"""Fewer are not judged by (a guess): a monitor asks a tenth of them, whose accuracy is then known to 30 points."""
STALE = 0.5
"""Share of what a new key has in common with its image alone that the oldest keys must still have."""
TELLING = 0.05
"""Least that new keys must have in common with their own images alone, in cosine, for that share to mean something: on
constant images it wanders up to 0.03, on scikit-learn's digits it is above 0.1 after 100 steps."""
MOST_VIEWS = 50.0
"""Percentage of blank or dark views from which they hide what the others teach."""
Z_95 = 1.959964
"""The normal distribution has 95% of its mass within this many standard deviations."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run: a name of `CAUSES`, what it means for the run, and the sentences for a person."""

    name: str
    condition: Condition
    text: str


def diagnose(config: PretrainConfig, step: int, figures: Mapping[str, float]) -> list[Finding]:
    """Find what is wrong after `step` steps, causes before effects; nothing where all is well.

    `config` is resolved. `figures` are the last logged ones (`loss`, `chance_loss`, `contrast_accuracy`, `filled` in
    percent, `epoch`, `images`), those of `evaluation.vitals`, and the monitor's `knn_top1` and `knn_queries`, or
    `retrieval` and `retrieval_images`, with `knn_before` and `retrieval_before` of its first look.
    A figure that is missing or not finite is not judged.
    """
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    known["filled"] = _filled(config, step, known)
    collapsed = judge_features(step, known)
    findings = [
        *_short(config, known),
        *_views(known),
        *_filling(config, known),
        *collapsed,
        *_stale(config, known),
        *_leaking(config, known),
        *_worse(config, step, known),
        *([] if collapsed else _at_chance(config, step, known)),  # a collapse puts the loss at chance
    ]
    return findings or _unknown(config, step, known)


def condition(findings: Sequence[Finding]) -> Condition:
    """Return the worst that any finding means for the run; "healthy" where there are none."""
    return max((finding.condition for finding in findings), key=SEVERITY.index, default=HEALTHY)


def describe_findings(findings: Sequence[Finding]) -> str:
    """Describe the findings in one text; "healthy" where there are none."""
    return " ".join(finding.text for finding in findings) or HEALTHY


def steps_to_fill(config: PretrainConfig) -> int:
    """Return the number of steps after which all K keys of a queue come from images."""
    return -(-config.queue_size // (config.batch_size * (1 + config.symmetric)))


def accuracy_gain(top1: float, other: float, images: int) -> tuple[float, float, float]:
    """Return how much higher `top1` is than `other`, both percentages of `images` images, with its 95% interval.

    (difference, low, high) in percentage points, by Agresti and Caffo (2000): p = (right + 1) / (images + 2) each, and
    p_1 - p_2 -+ 1.96 sqrt(p_1 (1 - p_1) / (images + 2) + p_2 (1 - p_2) / (images + 2)). That takes the two as
    independent. Two encoders mostly fail on the same images, so the paired interval, which needs every answer, is
    narrower.
    """
    p, q = ((share / 100 * images + 1) / (images + 2) for share in (top1, other))
    reach = Z_95 * math.sqrt((p * (1 - p) + q * (1 - q)) / (images + 2))
    return top1 - other, 100 * (p - q - reach), 100 * (p - q + reach)


# --- findings -------------------------------------------------------------------------------------------------------


def _filled(config: PretrainConfig, step: int, known: Mapping[str, float]) -> float:
    """How much of the dictionary comes from images, in percent; computed where no line of metrics has it."""
    if config.dictionary == "in-batch":
        return 100.0
    if "filled" in known:
        return known["filled"]
    if config.dictionary == "memory-bank":
        return min(100.0, 100 * known.get("epoch", 1.0))
    full = config.init_weights is not None or step >= steps_to_fill(config)  # weights may bring their queue
    return 100.0 if full else 100 * step / steps_to_fill(config)


def _short(config: PretrainConfig, known: Mapping[str, float]) -> list[Finding]:
    """Find that a run has too few images or steps to be judged."""
    findings, images, steps = list[Finding](), int(known.get("images", FEW_IMAGES)), require(config.max_steps)
    if images < FEW_IMAGES:
        findings.append(Finding("few", "undecided", f"{images} images are too few to judge by: an encoder can "
                                f"memorise them, so its loss says nothing about other images. Use some hundreds, or "
                                f"better thousands."))  # fmt: skip
    if steps < EARLY_STEPS:
        findings.append(Finding("short", "undecided", f"This run is too short to judge: it has {counted(steps, 'step')}"
                                f" and needs {EARLY_STEPS}. Give more --epochs or --max-steps; with auto, more "
                                f"--minutes."))  # fmt: skip
    return findings


def _views(known: Mapping[str, float]) -> list[Finding]:
    findings = []
    blank, dark = known.get("blank_views", 0.0), known.get("dark_views", 0.0)
    if blank > MOST_VIEWS:
        findings.append(Finding("blank", "doubtful", f"{blank:.0f}% of the views show a single colour. They teach "
                                f"the encoder nothing. Look at the images: moco report shows the views."))  # fmt: skip
    if dark > MOST_VIEWS:
        findings.append(Finding("dark", "doubtful", f"{dark:.0f}% of the views are nearly black. Values of 12 bits "
                                f"stored in 16 look like that, and most of what they show is lost. Scale the images "
                                f"to the full range of their type."))  # fmt: skip
    return findings


def _filling(config: PretrainConfig, known: Mapping[str, float]) -> list[Finding]:
    if known["filled"] >= 100:
        return []
    share, full, steps = f"{max(1, round(100 - known['filled']))}%", steps_to_fill(config), require(config.max_steps)
    why = "Any encoder can tell those from images, so loss and contrast accuracy mean little"
    if config.dictionary == "memory-bank":
        said = f"{share} of the memory bank's entries are still random. {why} in the first epoch. Wait."
    elif full <= steps:
        said = f"{share} of the queue's {config.queue_size} keys are still the initial random ones. {why} before "
        said += f"step {full}. Wait."
    else:
        most = max(config.batch_size, steps * config.batch_size * (1 + config.symmetric) // 4)
        said = f"{share} of the queue's {config.queue_size} keys are still the initial random ones. {why}. This "
        said += f"run's {steps} steps are too few to replace them: give --queue-size {most} or less, or more --epochs."
    return [Finding("filling", "undecided", said)]


def judge_features(step: int, figures: Mapping[str, float]) -> list[Finding]:
    """Find whether features have collapsed after `step` steps, by their `effective_rank` and `head_uniformity`.

    Without the latter, by `uniformity`, the monitor's figure where there are no labels.
    """
    rank = figures.get("effective_rank", math.inf)
    uniformity = figures.get("head_uniformity", figures.get("uniformity", -math.inf))
    if rank >= COLLAPSED_RANK and uniformity <= COLLAPSED_UNIFORMITY:
        return []
    known = {"effective rank": rank, "uniformity": uniformity}
    shown = ", ".join(f"{name} {value:.2g}" for name, value in known.items() if math.isfinite(value))
    said = f"Different images get nearly the same features ({shown})."
    if step < EARLY_STEPS:
        return [Finding("collapsed", "undecided", f"{said} That can pass in the first {EARLY_STEPS} steps.")]
    return [Finding("collapsed", "failed", f"{said} The features have collapsed. Start "
                    f"again with a smaller --lr or a --key-momentum nearer to 1, and check that the images "
                    f"differ.")]  # fmt: skip


def _stale(config: PretrainConfig, known: Mapping[str, float]) -> list[Finding]:
    new, old = known.get("new_keys_own", math.nan), known.get("old_keys_own", math.nan)
    if not (new >= TELLING and old < STALE * new):
        return []
    left = max(0.0, 100 * old / new)
    return [Finding("stale", "doubtful", f"The oldest keys in the queue are stale: they keep only {left:.0f}% of what "
                    f"tells a new key's image from the others. The loss then compares features of different encoders. "
                    f"Give a --key-momentum nearer to 1 (now {config.key_momentum:g}), a smaller --queue-size (now "
                    f"{config.queue_size}) or a smaller --lr.")]  # fmt: skip


def _leaking(config: PretrainConfig, known: Mapping[str, float]) -> list[Finding]:
    accuracy = known.get("contrast_accuracy", 0.0)
    if accuracy < FOUND_BY_ALL or known["filled"] < 100:  # random keys are no rivals
        return []
    said = f"The task is too easy: {accuracy:.1f}% of the queries find their key among {negatives(config)} others."
    if config.bn_groups == 1 and config.bn == "train" and config.dictionary != "memory-bank" and config.queue_size:
        return [Finding("leak", "doubtful", f"{said} With one group of batch normalisation, query and key share its "
                        f"statistics, and the encoder can read those instead of the image. Leave --bn-groups at its "
                        f"default.")]  # fmt: skip
    size = "--batch-size" if config.dictionary == "in-batch" or config.batch_keys else "--queue-size"
    return [Finding("leak", "doubtful", f"{said} It teaches little more. Give a larger {size} or views that differ "
                    f"more (--augment), and look for images that are in the set many times.")]  # fmt: skip


def _worse(config: PretrainConfig, step: int, known: Mapping[str, float]) -> list[Finding]:
    """Find by labels or, without them, by views that training harms; views do not tell where a teacher makes keys."""
    do = "Give a smaller --lr, more --epochs, or other views (--augment)."
    by_labels = _fall(step, known, "knn_top1", "knn_before", "knn_queries")
    by_views = _fall(step, known, "retrieval", "retrieval_before", "retrieval_images")
    if by_labels:
        return [Finding("worse", "doubtful", f"kNN accuracy fell {by_labels}. Training makes these features worse at "
                        f"telling the classes apart. {do}")]  # fmt: skip
    if by_views and config.teacher is None:
        return [Finding("lost", "doubtful", f"The share of images that find their own second view fell {by_views}. In "
                        f"trials with labels accuracy rose by at most 0.7 points where this fell. {do}")]  # fmt: skip
    return []


def _fall(step: int, known: Mapping[str, float], now: str, before: str, count: str) -> str:
    """Say by how much a percentage of `count` images fell beyond its interval; nothing where it did not, or early."""
    if step < EARLY_STEPS or not {now, before, count} <= known.keys():
        return ""
    _, low, high = accuracy_gain(known[now], known[before], int(known[count]))
    said = f"from {known[before]:.1f}% at the start to {known[now]:.1f}% (by {-high:.1f} to {-low:.1f} points"
    return f"{said}, {known[count]:.0f} {'queries' if count == 'knn_queries' else 'images'})" if high < 0 else ""


def _at_chance(config: PretrainConfig, step: int, known: Mapping[str, float]) -> list[Finding]:
    loss, chance = known.get("loss", 0.0), known.get("chance_loss", math.inf)
    if loss < (1 - AT_CHANCE) * chance or known["filled"] < 100:
        return []
    count = negatives(config) + 1 if config.mix + config.mix_query else "K+1"
    said, normal = f"The loss is at chance, log({count}) = {chance:.2f}", _normally_at_chance(config, step, known)
    if normal:
        return [Finding("chance", "undecided", f"{said}. {normal}")]
    return [Finding("chance", "failed", f"{said}, after {step} steps. The encoder learns nothing from the task. Try "
                    f"--lr three times larger and three times smaller (now {require(config.lr):g}), and look at the "
                    f"images.")]  # fmt: skip


def _normally_at_chance(config: PretrainConfig, step: int, known: Mapping[str, float]) -> str:
    """Say how long a loss at chance is normal, and what to do; nothing where that time is over."""
    steps, until, epoch = require(config.max_steps), EARLY_STEPS, known.get("epoch", math.inf)
    if config.dictionary == "queue":
        until = max(until, EARLY_FILLS * steps_to_fill(config))
    if config.dictionary == "memory-bank" and epoch < EARLY_EPOCHS:
        early, over = f"in the first {EARLY_EPOCHS} epochs", epoch * steps < EARLY_EPOCHS * step
    elif step < until:
        early, over = f"in the first {until} steps" if steps >= EARLY_STEPS else "so early", steps < until
    else:
        return ""
    do = "" if steps < EARLY_STEPS else " This run ends before: give more --epochs." if over else " Wait."
    return f"That is normal {early}.{do}"


def _unknown(config: PretrainConfig, step: int, known: Mapping[str, float]) -> list[Finding]:
    """Say that a loss is missing, or means nothing yet."""
    if not {"loss", "chance_loss"} <= known.keys():
        do = "Wait for the next line of metrics." if config.log_every else "Give --log-every 20."
        return [Finding("unmeasured", "undecided", f"No loss is on record at step {step}. Without it nothing shows "
                        f"whether the run learns. {do}")]  # fmt: skip
    if step < EARLY_STEPS:
        return [Finding("early", "undecided", f"It is too early to judge: in the first {EARLY_STEPS} steps the loss "
                        f"says little. Wait.")]  # fmt: skip
    return []
