"""The verdict: what it says of runs whose figures leave no doubt."""

import math
from pathlib import Path
from typing import Any

import pytest

from moco.report.runs import read_run
from moco.report.verdict import judge, noise
from tests.report.folders import CHANCE, gallery, metrics, write_run


def judged(folder: Path, lines: list[dict[str, Any]], **more: Any) -> tuple[str, str, str]:
    """Mood, headline and all sentences."""
    verdict = judge(read_run(write_run(folder, lines=lines, **more)))
    return verdict.mood, verdict.headline, " ".join(verdict.sentences)


def flat(loss: float, knn: tuple[float, ...]) -> list[dict[str, Any]]:
    """A run whose loss is the same in every line."""
    return [{**line, "loss": loss} if "loss" in line else line for line in metrics(knn=knn)]


@pytest.mark.parametrize(
    ("loss", "knn", "mood", "headline"),
    [
        (CHANCE / 2, (20.0, 30.0, 45.0), "good", "It learned"),
        (CHANCE / 2, (20.0, 20.0, 20.5), "mixed", "It learned the task, but nothing about the classes"),
        (CHANCE / 2, (20.0, 15.0, 12.0), "mixed", "It learned the task, but nothing about the classes"),
        (CHANCE, (20.0, 20.0, 20.5), "bad", "It did not learn"),
        (CHANCE * 1.1, (), "bad", "It did not learn"),
        (CHANCE / 2, (), "mixed", "It learned the task; what that is worth for classes was not measured"),
    ],
)
def test_headlines(tmp_path: Path, loss: float, knn: tuple[float, ...], mood: str, headline: str) -> None:
    """By the loss against chance, and kNN accuracy against the start."""
    assert judged(tmp_path / "run", flat(loss, knn))[:2] == (mood, headline)


def test_the_figures_in_words(tmp_path: Path) -> None:
    """Loss, chance, and the probability of the right key that both mean; kNN at the start and the end; time."""
    said = judged(tmp_path / "run", flat(2.0, (26.8, 40.0, 50.95)))[2]
    assert "2.00" in said
    assert "guessing gives 4.85" in said
    assert f"among 128 keys the right one gets a probability of {100 * math.exp(-2):.3g}%" in said
    assert "guessing it would be 0.78%" in said
    assert "50.95%" in said
    assert "26.80%" in said
    assert "It took 50 s, with 760 images per second" in said


@pytest.mark.parametrize(
    ("knn", "told"),
    [
        ((20.0, 50.0, 40.0), "It was better before: 50.00% at step 50."),
        ((20.0, 40.0, 50.0), "still rising"),
        ((20.0, 50.0, 50.1), ""),
    ],
)
def test_the_course_of_knn(tmp_path: Path, knn: tuple[float, ...], told: str) -> None:
    """A fall and a rise at the end are told, level ground is not."""
    said = judged(tmp_path / "run", flat(2.0, knn))[2]
    assert told in said
    assert ("better before" in said) == ("better before" in told)
    assert ("still rising" in said) == ("still rising" in told)


def test_suspicions(tmp_path: Path) -> None:
    """A leak, a collapse, a run that became slower, and interruptions."""
    lines = metrics(2000)
    for number, line in enumerate(lines):
        line.update({name: 99.9 for name in line if name == "contrast_accuracy"})
        line.update({name: 700.0 if number < 60 else 200.0 for name in line if name == "images_per_second"})
    lines += [{"event": "resume", "step": 500, "time": 1.0}] * 2
    stored = {**gallery(["a"], ["x", "y"]), "effective_rank": 1.2}
    mood, headline, said = judged(tmp_path / "run", lines, evaluations={"gallery": stored})
    assert (mood, headline) == ("bad", "It did not learn: its features are all alike")
    for part in ("99.90%. That is suspicious", "have collapsed", "became slower, from 700 to 200", "went on 2 times"):
        assert part in said


def test_the_linear_evaluation_is_told_with_its_baselines(tmp_path: Path) -> None:
    """In one sentence."""
    linear = {"top1": 61.25, "test": 1000, "baselines": {"random": {"top1": 40.5}, "supervised": {"top1": 70.75}}}
    mood, headline, said = judged(tmp_path / "run", metrics(knn=()), evaluations={"linear-fast": linear})
    assert (mood, headline) == ("good", "It learned")
    assert "61.25% of the test images (random weights 40.50%, the same network trained with labels 70.75%)" in said


def test_noise() -> None:
    """Two standard errors of a share: at 50% of 2000 images 2.24 points."""
    assert noise(50.0, 2000) == pytest.approx(100 * 2 * math.sqrt(0.25 / 2000))


def test_a_queue_that_is_not_full_is_no_ground_for_a_verdict(tmp_path: Path) -> None:
    """Its random keys are told from others by any encoder."""
    lines = flat(2.0, ())
    queue = {"dictionary": "queue", "queue_size": 65536}
    mood, headline, said = judged(tmp_path / "run", lines, **queue)
    assert (mood, headline) == ("open", "It ended; there are no figures to judge it by")
    assert "The queue of 65\u2009536 keys was not yet full" in said
