"""How a run does, in plain words, from its own numbers: a config and figures -> findings, each with what to do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moco.pretraining.config import PretrainConfig, negatives
from moco.runtime.fields import settled

HEALTHY = "healthy"
EARLY_STEPS = 200
"""Until then a loss at chance is normal: the encoder changes so fast at first that old keys can be told apart by their
age (docs/results.md) ..."""
EARLY_FILLS = 8
"""... and until the queue was filled this often where that is later: it is on record that with K = 65536 the loss stood
at 11.09 for a few epochs of 500 steps, then fell (DTennant/CL-Visualizing-Feature-Transformation, issue 1) ..."""
EARLY_EPOCHS = 10
"""... and with a memory bank until each image was seen this often: its entries are as old as the last epoch."""
AT_CHANCE = 0.01
"""A loss that is not this share of log(K+1) below it shows nothing learned (a guess, not measured)."""
FOUND_BY_ALL = 99.0
"""Contrast accuracy, in percent: an honest run on ImageNet stands at 77 after 34 epochs (facebookresearch/moco, issue
38), and with a leak it passes 99.9 (v1, Fig. A.1)."""
COLLAPSED_RANK = 2.0
"""Effective rank below which all images give nearly one direction; 1 is a single one."""
COLLAPSED_UNIFORMITY = -0.05
"""Log of the mean of exp(-2 distance^2) above which features are alike: their mean squared distance is below 0.025."""
STALE = 0.5
"""Share of what a new key has in common with its image alone that the oldest keys must still have."""
TELLING = 0.05
"""Least that new keys must have in common with their own images alone, in cosine, for that share to mean something: on
constant images it wanders up to 0.03, on scikit-learn's digits it is above 0.1 after 100 steps."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a run: a short name, and one sentence with what to do."""

    name: str
    text: str


def diagnose(config: PretrainConfig, step: int, figures: Mapping[str, float]) -> list[Finding]:
    """What is wrong after `step` steps, causes before effects; nothing where all is well.

    `config` is resolved. `figures` are the last logged ones (`loss`, `chance_loss`, `contrast_accuracy`), `filled` in
    percent, `epoch`, and those of `evaluation.vitals`; what is missing, or is not a number, is not judged.
    """
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    findings = [*_filling(config, step, known), *_collapsed(known), *_stale(config, known), *_leaking(config, known)]
    if not any(finding.name == "collapsed" for finding in findings):  # of which a loss at chance is the effect
        findings += _at_chance(config, step, known)
    return findings


def summary(findings: Sequence[Finding]) -> str:
    """The findings as one text; "healthy" where there are none."""
    return " ".join(finding.text for finding in findings) or HEALTHY


def steps_to_fill(config: PretrainConfig) -> int:
    """After how many steps all K keys of a queue are those of images."""
    return math.ceil(config.queue_size / (config.batch_size * (1 + config.symmetric)))


def _filling(config: PretrainConfig, step: int, known: Mapping[str, float]) -> list[Finding]:
    filled = known.get("filled", 100.0)
    if filled >= 100:
        return []
    if config.dictionary == "memory-bank":
        return [Finding("filling", f"Only {filled:.0f}% of the memory bank's entries are features of images yet, the "
                        f"others random: loss and contrast accuracy say little in the first epoch; wait.")]  # fmt: skip
    full, steps = steps_to_fill(config), settled(config.max_steps)
    told = f"{100 - filled:.0f}% of the queue's {config.queue_size} keys are still the random ones of the start"
    if full > steps:
        most = max(config.batch_size, steps * config.batch_size * (1 + config.symmetric) // 4)
        return [Finding("filling", f"{told}, and {steps} steps are too few to replace them all: give --queue-size "
                        f"{most} or less, or more --epochs.")]  # fmt: skip
    return [Finding("filling", f"{told}: loss and contrast accuracy say little before step {full}; wait.")]


def _collapsed(known: Mapping[str, float]) -> list[Finding]:
    rank, uniformity = known.get("effective_rank", math.inf), known.get("head_uniformity", -math.inf)
    if rank >= COLLAPSED_RANK and uniformity <= COLLAPSED_UNIFORMITY:
        return []
    return [Finding("collapsed", f"The features have collapsed, different images look alike to the encoder (effective "
                    f"rank {rank:.2g}, uniformity {uniformity:.2g}): start again with a smaller --lr or a "
                    f"--key-momentum nearer to 1, and look whether the images differ.")]  # fmt: skip


def _stale(config: PretrainConfig, known: Mapping[str, float]) -> list[Finding]:
    new, old = known.get("new_keys_own", math.nan), known.get("old_keys_own", math.nan)
    if not (new >= TELLING and old < STALE * new):
        return []
    left = max(0.0, 100 * old / new)
    return [Finding("stale", f"The oldest keys in the queue are stale, only {left:.0f}% of what makes a new key its "
                    f"image's own is left in them: give a --key-momentum nearer to 1 (now {config.key_momentum:g}), a "
                    f"smaller --queue-size (now {config.queue_size}) or a smaller --lr.")]  # fmt: skip


def _leaking(config: PretrainConfig, known: Mapping[str, float]) -> list[Finding]:
    accuracy = known.get("contrast_accuracy", 0.0)
    if accuracy < FOUND_BY_ALL or known.get("filled", 100.0) < 100:  # random keys are no rivals
        return []
    told = f"{accuracy:.1f}% of the queries find their key among {negatives(config)} others, which is too good"
    if config.bn_groups == 1 and config.dictionary != "memory-bank":
        return [Finding("leak", f"{told}: query and key share the statistics of batch normalisation, which give them "
                        f"away; leave --bn-groups at its default.")]  # fmt: skip
    size = "--batch-size" if config.dictionary == "in-batch" else "--queue-size"
    return [Finding("leak", f"{told}: the task teaches no more; give a larger {size} or views that differ more "
                    f"(--augment), and look whether images are in the set many times.")]  # fmt: skip


def _at_chance(config: PretrainConfig, step: int, known: Mapping[str, float]) -> list[Finding]:
    loss, chance = known.get("loss", 0.0), known.get("chance_loss", math.inf)
    if loss < (1 - AT_CHANCE) * chance or known.get("filled", 100.0) < 100:
        return []
    count = negatives(config) + 1 if config.mix + config.mix_query else "K+1"
    told = f"The loss is at chance, log({count}) = {chance:.2f}"
    early = EARLY_STEPS
    if config.dictionary == "queue":
        early = max(early, EARLY_FILLS * steps_to_fill(config))
    if config.dictionary == "memory-bank" and "epoch" in known:
        early = max(early, math.ceil(EARLY_EPOCHS * step / known["epoch"]))
    if step < early:
        return [Finding("chance", f"{told}, which is normal in the first {early} steps: wait.")]
    return [Finding("chance", f"{told}, after {step} steps, so nothing is learned: try --lr three times larger and "
                    f"three times smaller (now {settled(config.lr):g}), and look at the images.")]  # fmt: skip
