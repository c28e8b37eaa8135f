"""Figures in, findings out: every finding by figures that must and by figures that must not give it."""

import math
from pathlib import Path
from typing import Any

import pytest

from moco.pretraining.config import PretrainConfig
from moco.pretraining.health import diagnose, steps_to_fill, summary

CHANCE = math.log(4097)
SOUND = {
    "filled": 100.0, "loss": 5.0, "chance_loss": CHANCE, "contrast_accuracy": 60.0, "effective_rank": 50.0,
    "head_alignment": 0.4, "head_uniformity": -2.5, "new_keys_own": 0.7, "old_keys_own": 0.6,
}  # fmt: skip
"""Of a run that goes well."""


def config(**values: Any) -> PretrainConfig:
    """A resolved one: batches of 256, a queue of 4096 that 16 steps fill."""
    return PretrainConfig("photos", Path("run"), **{
        "batch_size": 256, "queue_size": 4096, "max_steps": 1000, "bn_groups": 8, "lr": 0.06, **values,
    })  # fmt: skip


def names(step: int = 500, settings: dict[str, Any] | None = None, **figures: float) -> list[str]:
    """What is found where some figures are other than sound."""
    return [finding.name for finding in diagnose(config(**(settings or {})), step, {**SOUND, **figures})]


def text(step: int = 500, settings: dict[str, Any] | None = None, **figures: float) -> str:
    """The words for it."""
    return summary(diagnose(config(**(settings or {})), step, {**SOUND, **figures}))


def test_a_sound_run_is_healthy() -> None:
    """And nothing else is said, early and late; nor where nothing is known."""
    assert names() == []
    assert text(1) == text() == text(1000) == "healthy"
    assert summary(diagnose(config(), 500, {})) == "healthy"


@pytest.mark.parametrize("name", SOUND)
def test_what_is_no_number_is_not_judged(name: str) -> None:
    """A figure that is missing or undefined raises nothing and accuses nobody."""
    unknown: dict[str, Any] = {name: math.nan}
    assert names(**unknown) == []
    assert diagnose(config(), 500, {key: value for key, value in SOUND.items() if key != name}) == []


def test_a_queue_with_random_keys_is_filling() -> None:
    """The sentence says until when; nothing is said of a loss against random keys."""
    figures: dict[str, Any] = {"filled": 25.0, "loss": CHANCE, "contrast_accuracy": 100.0}
    assert names(4, **figures) == ["filling"]
    assert "75% of the queue's 4096 keys are still the random ones" in text(4, **figures)
    assert "before step 16; wait" in text(4, **figures)
    assert names(16, filled=99.99) == ["filling"]


def test_a_queue_that_never_fills() -> None:
    """A run too short for its queue is told which size would do: one that its steps fill four times."""
    told = text(10, {"max_steps": 10, "queue_size": 65536}, filled=3.9)
    assert "10 steps are too few" in told
    assert "--queue-size 640 or less" in told


@pytest.mark.parametrize(("symmetric", "steps"), [(False, 16), (True, 8)])
def test_steps_to_fill(symmetric: bool, steps: int) -> None:
    """A symmetric loss writes both views' keys."""
    assert steps_to_fill(config(symmetric=symmetric)) == steps
    assert steps_to_fill(config(symmetric=symmetric, queue_size=4097)) == steps + 1


def test_a_memory_bank_with_random_entries_is_filling() -> None:
    """Until each image was seen once."""
    assert "40% of the memory bank's entries" in text(4, {"dictionary": "memory-bank"}, filled=40.0)


@pytest.mark.parametrize("loss", [CHANCE, 1.5 * CHANCE, 0.995 * CHANCE])
def test_a_loss_at_chance(loss: float) -> None:
    """Early it is normal, and the sentence says until when; later nothing is learned."""
    assert "log(K+1) = 8.32, which is normal in the first 200 steps: wait" in text(100, loss=loss)
    assert "after 200 steps, so nothing is learned" in text(200, loss=loss)
    assert "(now 0.06)" in text(200, loss=loss)
    assert names(200, loss=0.98 * CHANCE) == []


def test_chance_with_mixed_negatives() -> None:
    """A query is compared with K keys, its own, and those that are mixed: the formula is that of the figure."""
    mixed = {"hard_negatives": 16, "mix": 1024, "mix_query": 512}
    chance = math.log(4096 + 1024 + 512 + 1)
    assert f"at chance, log(5633) = {chance:.2f}" in text(500, mixed, loss=chance, chance_loss=chance)


def test_what_is_early_grows_with_the_queue() -> None:
    """At K = 65536 and a batch of 256, eight queues are 2048 steps; keys of the batch itself need no queue."""
    assert "normal in the first 2048 steps" in text(2000, {"queue_size": 65536}, loss=12.0)
    assert "nothing is learned" in text(2048, {"queue_size": 65536}, loss=12.0)
    assert "nothing is learned" in text(300, {"queue_size": 65536, "dictionary": "in-batch"}, loss=12.0)


def test_a_memory_bank_takes_epochs() -> None:
    """Ten of fifty steps here: its entries are as old as the last epoch."""
    bank = {"dictionary": "memory-bank"}
    assert "normal in the first 500 steps" in text(450, bank, loss=9.0, epoch=9.0)
    assert "nothing is learned" in text(550, bank, loss=9.0, epoch=11.0)


def test_a_leak_through_batch_normalisation() -> None:
    """One group on one process, and nearly every query finds its key."""
    assert names(settings={"bn_groups": 1}, contrast_accuracy=99.5) == ["leak"]
    told = text(settings={"bn_groups": 1}, contrast_accuracy=99.5)
    assert "99.5% of the queries find their key among 4096 others" in told
    assert "share the statistics of batch normalisation" in told
    assert "--bn-groups" in told
    assert names(settings={"bn_groups": 1}, contrast_accuracy=98.0) == []


@pytest.mark.parametrize(("dictionary", "flag"), [("queue", "--queue-size"), ("in-batch", "--batch-size")])
def test_a_task_that_is_too_easy(dictionary: str, flag: str) -> None:
    """With groups it is not the statistics that give keys away."""
    told = text(settings={"dictionary": dictionary}, contrast_accuracy=100.0)
    assert f"larger {flag}" in told
    assert "statistics" not in told


@pytest.mark.parametrize("figures", [{"effective_rank": 1.4}, {"head_uniformity": -0.01}])
def test_collapsed_features(figures: dict[str, Any]) -> None:
    """One direction, or no distance; the loss at chance that follows is not told as well."""
    assert names(**figures, loss=CHANCE) == ["collapsed"]
    assert "smaller --lr or a --key-momentum nearer to 1" in text(**figures)
    assert f"{figures.get('effective_rank', 50):.2g}" in text(**figures)


def test_stale_keys() -> None:
    """The oldest keys have lost more than half of what tells a new key's image from the others."""
    assert names(new_keys_own=0.6, old_keys_own=0.31) == []
    assert names(new_keys_own=0.6, old_keys_own=0.29) == ["stale"]
    told = text(new_keys_own=0.6, old_keys_own=0.12)
    assert "only 20%" in told
    assert "--key-momentum nearer to 1 (now 0.999)" in told
    assert "--queue-size (now 4096)" in told
    assert "only 0%" in text(new_keys_own=0.6, old_keys_own=-0.1)


def test_keys_that_tell_nothing_cannot_be_stale() -> None:
    """Where even new keys do not tell images apart, the share is noise."""
    assert names(new_keys_own=0.04, old_keys_own=-0.01) == []


def test_several_findings_are_all_told() -> None:
    """In one text, causes before effects."""
    assert names(effective_rank=1.0, new_keys_own=0.6, old_keys_own=0.1) == ["collapsed", "stale"]
    told = text(effective_rank=1.0, new_keys_own=0.6, old_keys_own=0.1)
    assert told.index("collapsed") < told.index("stale")
    assert "healthy" not in told
