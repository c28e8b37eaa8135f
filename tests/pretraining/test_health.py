"""Figures in, findings out: every finding by figures that must and by figures that must not give it."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from moco.pretraining.config import PretrainConfig
from moco.pretraining.health import (
    CAUSES,
    SEVERITY,
    Condition,
    Finding,
    accuracy_gain,
    condition,
    describe_findings,
    diagnose,
    judge_features,
    steps_to_fill,
)

CHANCE = math.log(4097)
SOUND = {
    "filled": 100.0, "loss": 5.0, "chance_loss": CHANCE, "contrast_accuracy": 60.0, "effective_rank": 50.0,
    "head_alignment": 0.4, "head_uniformity": -2.5, "new_keys_own": 0.7, "old_keys_own": 0.6, "blank_views": 0.0,
    "dark_views": 1.0, "knn_before": 30.0, "knn_top1": 45.0, "knn_queries": 400.0,
}  # fmt: skip
"""Of a run that goes well."""


def config(**values: Any) -> PretrainConfig:
    """A resolved one: batches of 256, a queue of 4096 that 16 steps fill."""
    return PretrainConfig("photos", Path("run"), **{
        "batch_size": 256, "queue_size": 4096, "max_steps": 1000, "bn_groups": 8, "lr": 0.06, **values,
    })  # fmt: skip


def found(step: int = 500, settings: dict[str, Any] | None = None, **figures: float) -> list[Finding]:
    """What is found where some figures are other than sound."""
    return diagnose(config(**(settings or {})), step, {**SOUND, **figures})


def names(step: int = 500, settings: dict[str, Any] | None = None, **figures: float) -> list[str]:
    """The names of these findings."""
    return [finding.name for finding in found(step, settings, **figures)]


def text(step: int = 500, settings: dict[str, Any] | None = None, **figures: float) -> str:
    """The words for them."""
    return describe_findings(found(step, settings, **figures))


def means(step: int = 500, settings: dict[str, Any] | None = None, **figures: float) -> Condition:
    """The condition that they put the run in."""
    return condition(found(step, settings, **figures))


def test_a_sound_run_is_healthy() -> None:
    """And nothing else is said, from the step on at which figures mean something."""
    assert names(200) == names() == names(1000) == []
    assert text() == means() == "healthy"


def test_few_images_are_not_called_healthy() -> None:
    """However long the run is: twelve images in a thousand steps, say."""
    assert names(images=100.0) == []
    assert names(images=99.0) == ["few"]
    assert means(images=12.0) == "undecided"
    assert text(images=12.0).startswith("12 images are too few to judge by")
    assert names(50, {"max_steps": 60}, images=12.0) == ["few", "short"]


def test_views_that_are_found_less_often() -> None:
    """Say without labels that training harms, beyond the interval of 400 images and from step 200 on, unless taught."""
    views: dict[str, Any] = {"knn_top1": math.nan, "retrieval_before": 40.0, "retrieval_images": 400.0}
    assert names(**views, retrieval=20.0) == ["lost"]
    assert means(**views, retrieval=20.0) == "doubtful"
    assert "fell from 40.0% at the start to 20.0% (by 13.7 to 26.1 points, 400 images)" in text(**views, retrieval=20.0)
    assert names(**views, retrieval=36.0) == names(**views, retrieval=60.0) == []
    assert names(199, **views, retrieval=20.0) == ["early"]
    assert names(500, {"teacher": "timm:net"}, **views, retrieval=20.0) == []


def test_conditions_are_ordered() -> None:
    """The worst finding decides what they mean together; the order is the one in which they are declared."""
    assert get_args(Condition) == SEVERITY
    for worst in range(len(SEVERITY)):
        mixed = [Finding("stale", SEVERITY[own], "") for own in (*range(worst + 1), 0)]
        assert condition(mixed) == SEVERITY[worst]
    assert condition([]) == "healthy"


@pytest.mark.parametrize("name", SOUND)
def test_what_is_no_number_is_not_judged(name: str) -> None:
    """A figure that is missing or undefined raises nothing and accuses nobody; without a loss nothing is known."""
    expected = ["unmeasured"] if name in ("loss", "chance_loss") else []
    unknown: dict[str, Any] = {name: math.nan}
    assert names(**unknown) == expected
    rest = {key: value for key, value in SOUND.items() if key != name}
    assert [finding.name for finding in diagnose(config(), 500, rest)] == expected


def test_nothing_known_is_not_healthy() -> None:
    """A run that logs no loss is asked to; one whose first line is to come waits for it."""
    nothing = diagnose(config(), 500, {})
    assert ([finding.name for finding in nothing], condition(nothing)) == (["unmeasured"], "undecided")
    assert "Wait for the next line of metrics" in describe_findings(nothing)
    assert "Give --log-every 20" in describe_findings(diagnose(config(log_every=0), 500, {}))


@pytest.mark.parametrize("steps", [1, 36, 199])
def test_a_run_that_is_too_short(steps: int) -> None:
    """Whatever its figures are, at its end and before: more epochs are asked for, and no message says to wait."""
    short = {"max_steps": steps}
    assert (names(steps, short), means(steps, short)) == (["short"], "undecided")
    assert f"it has {steps} step{'s' if steps > 1 else ''} and needs 200" in text(steps, short)
    assert "Give more --epochs" in text(steps, short)
    at_chance: dict[str, Any] = {"loss": CHANCE, "contrast_accuracy": 0.0}
    assert names(steps, short | {"dictionary": "in-batch"}, **at_chance) == ["short", "chance"]
    assert "Wait" not in text(steps, short | {"dictionary": "in-batch"}, **at_chance)


def test_a_step_that_is_too_early() -> None:
    """A longer run is not called healthy before its figures mean something; other findings stand for themselves."""
    assert (names(199), means(199)) == (["early"], "undecided")
    assert "in the first 200 steps the loss says little. Wait." in text(36)
    assert names(100, loss=CHANCE) == ["chance"]
    assert names(100, contrast_accuracy=99.9) == ["leak"]


def test_a_queue_with_random_keys_is_filling() -> None:
    """The sentence says until when; nothing is said of a loss against random keys."""
    figures: dict[str, Any] = {"filled": 25.0, "loss": CHANCE, "contrast_accuracy": 100.0}
    assert (names(4, **figures), means(4, **figures)) == (["filling"], "undecided")
    assert "75% of the queue's 4096 keys are still the initial random ones" in text(4, **figures)
    assert "before step 16. Wait." in text(4, **figures)
    assert names(16, filled=99.99) == ["filling"]
    assert "1% of the queue's" in text(16, filled=99.99)


def test_how_full_a_dictionary_is_follows_from_the_step() -> None:
    """In the metrics of an older run nothing says so; weights to start from may bring a full queue."""
    rest = {key: value for key, value in SOUND.items() if key != "filled"}
    deep = {"queue_size": 65536, "max_steps": 2000}

    def of(step: int, **settings: Any) -> list[str]:
        return [finding.name for finding in diagnose(config(**deep | settings), step, {**rest, "epoch": 0.5})]

    assert of(255) == ["filling"]
    assert of(256) == []
    assert of(200, symmetric=True) == []
    assert of(210, init_weights="w", max_steps=2000) == []
    assert of(210, dictionary="memory-bank") == ["filling"]
    assert of(210, dictionary="in-batch") == []


def test_a_queue_that_never_fills() -> None:
    """For a run too short for its queue the message says which size would do: one that its steps fill four times."""
    said = text(10, {"max_steps": 10, "queue_size": 65536}, filled=3.9)
    assert "This run's 10 steps are too few" in said
    assert "--queue-size 640 or less" in said


@pytest.mark.parametrize(("symmetric", "steps"), [(False, 16), (True, 8)])
def test_steps_to_fill(symmetric: bool, steps: int) -> None:
    """A symmetric loss writes both views' keys."""
    assert steps_to_fill(config(symmetric=symmetric)) == steps
    assert steps_to_fill(config(symmetric=symmetric, queue_size=4097)) == steps + 1


def test_a_memory_bank_with_random_entries_is_filling() -> None:
    """Until each image was seen once."""
    said = text(4, {"dictionary": "memory-bank"}, filled=40.0)
    assert said.startswith("60% of the memory bank's entries are still random.")


@pytest.mark.parametrize("loss", [CHANCE, 1.5 * CHANCE, 0.995 * CHANCE])
def test_a_loss_at_chance(loss: float) -> None:
    """Early it is normal, and the sentence says until when; later nothing is learned."""
    assert "log(K+1) = 8.32. That is normal in the first 200 steps. Wait." in text(100, loss=loss)
    assert means(100, loss=loss) == "undecided"
    assert "log(K+1) = 8.32, after 200 steps. The encoder learns nothing from the task." in text(200, loss=loss)
    assert "(now 0.06)" in text(200, loss=loss)
    assert means(200, loss=loss) == "failed"
    assert names(200, loss=0.98 * CHANCE) == []


def test_chance_with_mixed_negatives() -> None:
    """A query is compared with K keys, its own, and those that are mixed: the formula is that of the figure."""
    mixed = {"hard_negatives": 16, "mix": 1024, "mix_query": 512}
    chance = math.log(4096 + 1024 + 512 + 1)
    assert f"at chance, log(5633) = {chance:.2f}" in text(500, mixed, loss=chance, chance_loss=chance)


def test_what_is_early_grows_with_the_queue() -> None:
    """At K = 65536 and a batch of 256, eight queues are 2048 steps; keys of the batch itself need no queue."""
    deep = {"queue_size": 65536, "max_steps": 4000}
    assert "normal in the first 2048 steps. Wait." in text(2000, deep, loss=12.0)
    assert means(2048, deep, loss=12.0) == "failed"
    assert means(300, deep | {"dictionary": "in-batch"}, loss=12.0) == "failed"
    assert "This run ends before: give more --epochs." in text(2000, deep | {"max_steps": 2000}, loss=12.0)


def test_a_memory_bank_takes_epochs() -> None:
    """Ten: its entries are as old as the last epoch."""
    bank = {"dictionary": "memory-bank"}
    assert "normal in the first 10 epochs. Wait." in text(450, bank, loss=9.0, epoch=9.0)
    assert "This run ends before" in text(1000, bank, loss=9.0, epoch=9.0)
    assert means(450, bank, loss=9.0, epoch=9.0) == "undecided"
    assert means(550, bank, loss=9.0, epoch=11.0) == "failed"


def test_a_leak_through_batch_normalisation() -> None:
    """One group on one process, and nearly every query finds its key."""
    one = {"bn_groups": 1}
    assert (names(settings=one, contrast_accuracy=99.5), means(settings=one, contrast_accuracy=99.5)) == (
        ["leak"],
        "doubtful",
    )
    said = text(settings=one, contrast_accuracy=99.5)
    assert "99.5% of the queries find their key among 4096 others" in said
    assert "query and key share its statistics" in said
    assert "--bn-groups" in said
    assert names(settings=one, contrast_accuracy=98.0) == []


@pytest.mark.parametrize(("dictionary", "flag"), [("queue", "--queue-size"), ("in-batch", "--batch-size")])
def test_a_task_that_is_too_easy(dictionary: str, flag: str) -> None:
    """With groups it is not the statistics that give keys away."""
    said = text(settings={"dictionary": dictionary}, contrast_accuracy=100.0)
    assert f"larger {flag}" in said
    assert "statistics" not in said


@pytest.mark.parametrize("figures", [{"effective_rank": 1.8}, {"head_uniformity": -0.01}])
def test_collapsed_features(figures: dict[str, Any]) -> None:
    """One direction, or no distance; the loss at chance that follows is not reported as well."""
    assert names(**figures, loss=CHANCE) == ["collapsed"]
    assert means(**figures) == "failed"
    assert "smaller --lr or a --key-momentum nearer to 1" in text(**figures)
    assert f"{figures.get('effective_rank', 50):.2g}" in text(**figures)
    (alone,) = judge_features(500, figures)
    assert "inf" not in alone.text


def test_features_that_are_alike_at_first() -> None:
    """Random weights give photographs of one kind nearly equal features: that is no collapse yet."""
    early = judge_features(199, {"head_uniformity": -0.01, "effective_rank": 4.0})
    assert ([finding.name for finding in early], condition(early)) == (["collapsed"], "undecided")
    assert "can pass in the first 200 steps" in describe_findings(early)
    assert "--lr" not in describe_findings(early)
    assert names(50, {"max_steps": 60}, head_uniformity=-0.01) == ["short", "collapsed"]


def test_uniformity_of_the_monitor_stands_in() -> None:
    """Where there are no labels, an older run has that of the backbone's features alone."""
    assert [finding.name for finding in judge_features(500, {"uniformity": -0.02})] == ["collapsed"]
    assert judge_features(500, {"uniformity": -0.02, "head_uniformity": -1.0}) == []


@pytest.mark.parametrize(("figure", "said"), [("blank_views", "single colour"), ("dark_views", "nearly black")])
def test_views_that_show_nothing(figure: str, said: str) -> None:
    """More than half of them; a few are no matter."""
    share: dict[str, Any] = {figure: 51.0}
    assert (names(**share), means(**share)) == ([figure.removesuffix("_views")], "doubtful")
    assert f"51% of the views {'show a' if figure == 'blank_views' else 'are'} {said}" in text(**share)
    share[figure] = 50.0
    assert names(**share) == []


def test_features_that_became_worse() -> None:
    """By more than chance allows for so many queries, and not in the first steps, where it is normal."""
    fallen: dict[str, Any] = {"knn_before": 69.0, "knn_top1": 60.0}
    assert (names(**fallen), means(**fallen)) == (["worse"], "doubtful")
    assert "from 69.0% at the start to 60.0%" in text(**fallen)
    assert "400 queries" in text(**fallen)
    assert names(**fallen, knn_queries=50) == []
    assert names(100, **fallen) == ["early"]


def test_stale_keys() -> None:
    """The oldest keys have lost more than half of what tells a new key's image from the others."""
    assert names(new_keys_own=0.6, old_keys_own=0.31) == []
    assert names(new_keys_own=0.6, old_keys_own=0.29) == ["stale"]
    said = text(new_keys_own=0.6, old_keys_own=0.12)
    assert "only 20%" in said
    assert "--key-momentum nearer to 1 (now 0.999)" in said
    assert "--queue-size (now 4096)" in said
    assert "only 0%" in text(new_keys_own=0.6, old_keys_own=-0.1)


def test_keys_that_tell_nothing_cannot_be_stale() -> None:
    """Where even new keys do not tell images apart, the share is noise."""
    assert names(new_keys_own=0.04, old_keys_own=-0.01) == []


def test_several_findings_are_all_told() -> None:
    """In one text, causes before effects."""
    assert names(effective_rank=1.0, new_keys_own=0.6, old_keys_own=0.1) == ["collapsed", "stale"]
    said = text(effective_rank=1.0, new_keys_own=0.6, old_keys_own=0.1)
    assert said.index("collapsed") < said.index("stale")
    assert "healthy" not in said


# --- statistics and imports -----------------------------------------------------------------------------------------


def test_the_interval_of_a_gain_is_that_of_agresti_and_caffo() -> None:
    """One right and one wrong answer are added to each sample; by hand for 37 and 32 of 100."""
    difference, low, high = accuracy_gain(37.0, 32.0, 100)
    p, q = 38 / 102, 33 / 102
    reach = 1.959964 * math.sqrt(p * (1 - p) / 102 + q * (1 - q) / 102)
    assert (difference, low, high) == pytest.approx((5.0, 100 * (p - q - reach), 100 * (p - q + reach)))
    assert accuracy_gain(32.0, 37.0, 100) == pytest.approx((-5.0, -high, -low))
    equal = accuracy_gain(100.0, 100.0, 20)
    assert equal[1] < 0 < equal[2]


@pytest.mark.parametrize("both", [0.0, 0.2])
def test_the_interval_holds_the_difference(both: float) -> None:
    """In 95% of 2,000 draws, less three standard errors, whether or not the encoders share some answers."""
    rng, n, p, q = np.random.default_rng(0), 60, 0.4, 0.3
    shared = rng.random((2000, n)) < both
    right = [100 * (shared | (rng.random((2000, n)) < share)).mean(1) for share in (p, q)]
    truth, held = 100 * (1 - both) * (p - q), 0
    for top1, other in zip(*right, strict=True):
        _, low, high = accuracy_gain(float(top1), float(other), n)
        held += low <= truth <= high
    assert held / 2000 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_keys_of_the_batch_alone() -> None:
    """Are full from the first step; one BN group gives no hint, since all negatives share it; more come from N."""
    v3 = {"queue_size": 0, "batch_keys": True, "bn_groups": 1}
    assert steps_to_fill(config(**v3)) == 0
    said = text(settings=v3, contrast_accuracy=99.99)
    assert "find their key among 255 others" in said
    assert "--bn-groups" not in said
    assert "--batch-size" in said
    assert "--bn-groups" in text(settings={**v3, "queue_size": 512}, contrast_accuracy=99.99)


def test_every_finding_has_a_clause() -> None:
    """The headline of a report is made of it."""
    source = Path(str(sys.modules[diagnose.__module__].__file__)).read_text(encoding="utf-8")
    given = {part.partition('"')[0] for part in source.split('Finding("')[1:]}
    assert given == set(CAUSES)


def test_the_judge_needs_no_torch() -> None:
    """Reports take it along, and they are made where nothing can be computed."""
    program = "import sys, moco.pretraining.health; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
