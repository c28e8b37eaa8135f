"""The verdict: what it says of runs whose figures leave no doubt, and that it never contradicts the run's health."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import negatives
from moco.pretraining.health import CAUSES, Finding, condition, describe_findings, diagnose
from moco.report import findings as module
from moco.report.gains import describe_evaluations, describe_monitor
from moco.report.runs import Run, read_config, read_run
from moco.report.verdict import Verdict, judge
from moco.runtime.configfile import to_json
from tests.report.folders import CHANCE, gallery, metrics, write_run

STEPS = 400
DONE = {"state": "done", "step": STEPS, "result": {"seconds": 50.0}}


def judged(folder: Path, lines: list[dict[str, Any]], **more: Any) -> tuple[str, str, str]:
    """Mood, headline and all sentences."""
    values = {"status": DONE, "max_steps": STEPS, **more}
    verdict = judge(read_run(write_run(folder, lines=lines, **values)))
    return verdict.mood, verdict.headline, " ".join(verdict.sentences)


def flat(loss: float, knn: tuple[float, ...], **more: Any) -> list[dict[str, Any]]:
    """A run whose loss, and whatever else is given, is the same in every line."""
    return [{**line, "loss": loss, **more} if "loss" in line else line for line in metrics(STEPS, knn=knn)]


@pytest.mark.parametrize(
    ("loss", "knn", "mood", "headline"),
    [
        (CHANCE / 2, (20.0, 30.0, 45.0), "good", "It learned"),
        (
            CHANCE / 2,
            (20.0, 20.0, 20.5),
            "mixed",
            "It learned the task, but does not beat the network before its first",
        ),
        (CHANCE / 2, (20.0, 15.0, 12.0), "mixed", f"Its results are doubtful: {CAUSES['worse']}"),
        (CHANCE, (20.0, 20.0, 20.5), "bad", f"It did not learn: {CAUSES['chance']}"),
        (CHANCE * 1.1, (), "bad", f"It did not learn: {CAUSES['chance']}"),
        (CHANCE, (20.0, 30.0, 45.0), "mixed", "It beats the network before its first step, but its loss is at chance"),
        (CHANCE / 2, (), "mixed", "It learned the task; what that is worth for classes was not measured"),
    ],
)
def test_headlines(tmp_path: Path, loss: float, knn: tuple[float, ...], mood: str, headline: str) -> None:
    """By the health of the run, and kNN accuracy against the start."""
    found = judged(tmp_path / "run", flat(loss, knn))
    assert (found[0], found[1][: len(headline)]) == (mood, headline)


def test_the_figures_in_words(tmp_path: Path) -> None:
    """Loss, chance, and how often a view finds the other of its image; kNN at the start and the end; time."""
    said = judged(tmp_path / "run", flat(2.0, (26.8, 40.0, 50.95), contrast_accuracy=31.25))[2]
    assert "2.00" in said
    assert "guessing gives 4.85" in said
    assert "A view found the other view of its image among 128 in 31.2% of cases; guessing finds 0.78%." in said
    assert "from 26.80% before the first step to 50.95%" in said
    assert "It took 50 s, at a median of 910 images per second" in said


@pytest.mark.parametrize(
    ("knn", "course"),
    [
        ((20.0, 50.0, 40.0), "It was better before: 50.00% at step 200."),
        ((20.0, 40.0, 50.0), "still rising"),
        ((20.0, 50.0, 50.1), ""),
    ],
)
def test_the_course_of_knn(tmp_path: Path, knn: tuple[float, ...], course: str) -> None:
    """A fall and a rise at the end are mentioned, level ground is not."""
    said = judged(tmp_path / "run", flat(2.0, knn))[2]
    assert course in said
    assert ("better before" in said) == ("better before" in course)
    assert ("still rising" in said) == ("still rising" in course)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (
            {"step": 60, "last_step": 100, "images": 1550, "top1": 86.1, "first_top1": 83.7, "last_top1": 85.9},
            "It kept the encoder of step 60: 86.10% of 1\u202f550 images are classified correctly by their neighbours, "
            "83.70% by the first encoder and 85.90% by the last.",
        ),
        (
            {"step": 0, "last_step": 100, "images": 1550, "top1": 83.7, "first_top1": 83.7, "last_top1": 81.2},
            "It kept the encoder that it began with, as no later one was clearly better: 83.70% of 1\u202f550 images",
        ),
        ({"step": 60, "images": 1550, "top1": "<b>", "first_top1": 83.7, "last_top1": 85.9}, None),
        ({"step": None}, None),
        ([], None),
    ],
    ids=str,
)
def test_which_encoder_was_kept(tmp_path: Path, kept: Any, told: str | None) -> None:
    """As the run stored it; what is not as a run writes it is left out."""
    status = {"state": "done", "step": 100, "result": {"seconds": 50.0, "kept": kept}}
    sentences = judge(read_run(write_run(tmp_path / "run", status=status))).sentences
    found = [text for text in sentences if "It kept" in text]
    assert [text[: len(told)] for text in found] == [told] if told else not found


def test_pace(tmp_path: Path) -> None:
    """A run that became slower, and interruptions."""
    lines = flat(2.0, ())
    for number, line in enumerate(lines):
        line.update({name: 700.0 if number < 10 else 200.0 for name in line if name == "images_per_second"})
    lines += [{"event": "resume", "step": 200, "time": 1.0}] * 2
    said = judged(tmp_path / "run", lines)[2]
    assert "Throughput fell from 700 to 200" in said
    assert "resumed 2 times" in said


@pytest.mark.parametrize(
    ("tried", "told"),
    [([{"steps": 66}, {"steps": 0}], "resumed 1 time."), ([{"steps": 9}], "resumed 2 times"), ({"a": 1}, "2 times")],
)
def test_a_trial_is_no_interruption(tmp_path: Path, tried: Any, told: str) -> None:
    """The run that auto begins goes on once from its trial."""
    lines = [*flat(2.0, ()), *({"event": "resume", "step": step, "time": 1.0} for step in (66, 90))]
    write_run(tmp_path / "run", lines=lines)
    (tmp_path / "run" / "auto.json").write_text(json.dumps({"tried": tried}), encoding="utf-8")
    assert told in " ".join(judge(read_run(tmp_path / "run")).sentences)


# --- baselines ------------------------------------------------------------------------------------------------------


def test_the_linear_evaluation_is_shown_with_its_baselines(tmp_path: Path) -> None:
    """In one sentence."""
    linear = {"top1": 61.25, "test": 1000, "baselines": {"random": {"top1": 40.5}, "supervised": {"top1": 70.75}}}
    mood, headline, said = judged(tmp_path / "run", flat(2.0, ()), evaluations={"linear-fast": linear})
    assert (mood, headline) == ("good", "It learned")
    assert "61.25% of 1\u202f000 images; random weights for 40.50% (+20.75 points, 95% interval +16" in said
    assert "the same network trained with labels for 70.75%." in said


PAIRED = {"difference": 2.0, "low": 0.5, "high": 3.5}


@pytest.mark.parametrize(
    ("baselines", "headline"),
    [
        ({"random": {"top1": 48.0}}, "It learned the task, but does not beat random weights"),
        ({"random": {"top1": 48.0, **PAIRED}}, "It learned"),
        ({"random": {"top1": 48.0, **PAIRED, "low": -0.5}}, "It learned the task, but does not beat random weights"),
        ({"random": {"top1": 30.0}, "pixels": {"top1": 52.0}}, "It learned the task, but does not beat raw pixels"),
        ({"random": {"top1": 30.0}, "pixels": {"top1": 32.0}}, "It learned"),
        ({"pixels": {"top1": 52.0}}, "It learned the task, but does not beat raw pixels"),
        ({"random": {"top1": 30.0}, "timm:resnet18": {"top1": 90.0}}, "It learned"),
        ({}, "It learned the task; what that is worth for classes was not measured"),
    ],
)
def test_it_learned_only_beyond_every_baseline(tmp_path: Path, baselines: dict[str, Any], headline: str) -> None:
    """By the paired interval where the evaluation holds one, else by the wider one of as many images as there were."""
    knn = {"top1": 50.0, "queries": 341, "baselines": baselines}
    assert judged(tmp_path / "run", flat(2.0, ()), evaluations={"knn": knn})[1] == headline


def test_an_evaluation_goes_before_the_monitor(tmp_path: Path) -> None:
    """The monitor may classify images that were trained on."""
    knn = {"top1": 41.0, "queries": 341, "baselines": {"random": {"top1": 40.0}}}
    found = judged(tmp_path / "run", flat(2.0, (20.0, 30.0, 45.0)), evaluations={"knn": knn})
    assert found[1] == "It learned the task, but does not beat random weights"


def test_an_evaluation_of_an_unknown_number_of_images_gains_nothing(tmp_path: Path) -> None:
    """Its figures are shown; an interval cannot be had."""
    knn = {"top1": 50.0, "baselines": {"random": {"top1": 30.0}}}
    run = read_run(write_run(tmp_path / "run", evaluations={"knn": knn}))
    (found,) = describe_evaluations(run)
    assert found.gains == ()
    assert "50.00% of the images; random weights for 30.00%." in found.sentence


def test_other_weights_are_shown_and_need_not_be_beaten(tmp_path: Path) -> None:
    """With their paired interval; the images are those that the evaluation says."""
    own = {"top1": 83.0, "difference": -33.0, "low": -38.0, "high": -28.0}
    knn = {
        "top1": 50.0, "queries": 341, "measured_on": "a tenth of train, which the encoder was trained on",
        "baselines": {"random": {"top1": 30.0}, "pixels": {"top1": 41.0}, "timm:lite": own},
    }  # fmt: skip
    mood, headline, said = judged(tmp_path / "run", flat(2.0, ()), evaluations={"knn": knn})
    assert (mood, headline) == ("good", "It learned")
    where = "a tenth of the training images, which the encoder was trained on"
    assert f"50.00% of 341 images of {where}; random weights for 30" in said
    assert "raw pixels for 41.00% (" in said
    assert "timm:lite for 83.00% (\u221233.00 points, 95% interval \u221238.00 to \u221228.00)." in said
    assert "held out" not in said


@pytest.mark.parametrize(
    ("pixels", "share", "headline", "words"),
    [
        (41.0, 100.0, "It learned", "2\u202f000 images, which it was trained on); raw pixels are right for 41.00%"),
        (44.0, 0.0, "It learned the task, but does not beat raw pixels", "images, held out from training); raw pixels"),
        (None, None, "It learned", "; 2\u202f000 images)."),
    ],
)
def test_the_monitor_looks_at_raw_pixels_too(
    tmp_path: Path, pixels: float | None, share: float | None, headline: str, words: str
) -> None:
    """An encoder that they beat has learned nothing of use for the classes; older runs do not know of them."""
    more = {"knn_pixels": pixels, "knn_trained_on": share}
    known = {name: value for name, value in more.items() if value is not None}
    lines = [{**line, **(known if "knn_top1" in line else {})} for line in flat(2.0, (20.0, 30.0, 45.0))]
    found = judged(tmp_path / "run", lines)
    assert found[1] == headline
    assert words in found[2]


@pytest.mark.parametrize(
    ("lines", "splits", "queries"),
    [
        ({"knn_queries": 341}, {"train": 3409}, 341),
        ({}, {"train": 3409}, 340),
        ({}, {"train": 3409, "val": 500}, 500),
        ({}, {"train": 10**6, "val": 50_000}, 2000),
        ({}, None, 2000),  # of 50,000 images, by step and epoch
    ],
)
def test_the_queries_are_those_that_were_used(
    tmp_path: Path, lines: dict[str, Any], splits: dict[str, int] | None, queries: int
) -> None:
    """By the monitor's own figure; in an older run the validation split or a tenth of train, up to --knn-images / 5."""
    evaluations = {} if splits is None else {"gallery": {**gallery(["a"], ["x", "y"]), "splits": splits}}
    points = [{**line, **lines} for line in metrics(knn=(32.0, 37.0))]
    run = read_run(write_run(tmp_path / "run", lines=points, evaluations=evaluations))
    assert run.queries == queries
    found = describe_monitor(run)
    assert found is not None
    assert (found.gains[0].low > 0) == (queries == 2000)  # with 341 five points are within chance


# --- health ---------------------------------------------------------------------------------------------------------


def test_what_the_run_stored_is_repeated(tmp_path: Path) -> None:
    """Its words and what they mean, whatever the figures would say today; the last record counts."""
    stored = [
        {"step": 200, "health": "Old.", "findings": ["chance"], "conditions": ["failed"], "time": 1.0},
        {"step": 400, "health": "So. And so.", "findings": ["early", "new"], "conditions": ["undecided", "doubtful"]},
    ]
    found = judged(tmp_path / "run", flat(CHANCE, ()) + stored)
    assert found[:2] == ("mixed", "Its results are doubtful: new")
    assert "Health at step 400: So. And so." in found[2]
    assert "Old." not in found[2]


@pytest.mark.parametrize(
    "line",
    [
        {"health": "healthy", "findings": []},  # as written before conditions were stored
        {"health": 5, "findings": [], "conditions": []},
        {"health": "healthy", "findings": ["chance"], "conditions": []},
        {"health": "healthy", "findings": [7], "conditions": ["failed"]},
        {"health": "healthy", "findings": ["chance"], "conditions": ["<b>"]},
        {"health": "healthy", "findings": [], "conditions": [], "step": None},
        {"health": "healthy", "findings": ["chance"], "conditions": [[]]},
    ],
)
def test_a_record_that_does_not_say_what_it_means_is_judged_anew(tmp_path: Path, line: dict[str, Any]) -> None:
    """By the same judge, from the last figures."""
    lines = [*flat(CHANCE, ()), {"step": 400, "time": 1.0, **line}]
    assert judged(tmp_path / "run", lines)[:2] == ("bad", f"It did not learn: {CAUSES['chance']}")


def test_the_rank_of_the_gallery_is_judged_too(tmp_path: Path) -> None:
    """It is of the backbone's features, which only a report looks at; few images have a low rank by their number."""
    stored = {**gallery(["a"], ["x", "y"], count=40), "effective_rank": 1.2}
    healthy = [{"step": 400, "health": "healthy", "findings": [], "conditions": []}]
    for number, lines in enumerate((flat(2.0, ()), flat(2.0, ()) + healthy)):
        found = judged(tmp_path / f"run {number}", lines, evaluations={"gallery": stored})
        assert found[:2] == ("bad", f"It did not learn: {CAUSES['collapsed']}")
        assert "effective rank 1.2" in found[2]
        assert "healthy" not in found[2]
    few = {**stored, "queries": 5}
    assert judged(tmp_path / "few", flat(2.0, ()), evaluations={"gallery": few})[0] == "mixed"


def test_a_queue_that_is_not_full_is_no_ground_for_a_verdict(tmp_path: Path) -> None:
    """Any encoder tells its random keys from others."""
    queue = {"dictionary": "queue", "queue_size": 65536}
    mood, headline, said = judged(tmp_path / "run", flat(2.0, ()), **queue)
    assert (mood, headline) == ("open", f"It cannot be judged: {CAUSES['filling']}")
    assert "22% of the queue's 65536 keys are still the initial random ones" in said


@pytest.mark.parametrize("loss", [1.0, CHANCE])
def test_a_run_of_36_steps_is_too_short(tmp_path: Path, loss: float) -> None:
    """However good or bad its figures look."""
    status = {**DONE, "step": 36}
    lines = [{**line, "step": round(line["step"] * 0.09)} for line in flat(loss, ())]
    assert judged(tmp_path / "run", lines, max_steps=36, status=status)[:2] == (
        "open",
        "It cannot be judged: it is too short",
    )


@pytest.mark.parametrize("change", [{"max_steps": None}, {"lr": None}, {"batch_size": 0}, {"queue_size": 10**400}])
def test_settings_that_are_none_of_ours(tmp_path: Path, change: dict[str, Any]) -> None:
    """Nothing is said of health then, and why."""
    folder = write_run(tmp_path / "run", lines=flat(2.0, ()), status=DONE, max_steps=STEPS)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | change))
    run = read_run(folder)
    verdict = judge(run)
    assert (verdict.mood, verdict.headline) == ("open", "It cannot be judged: its settings cannot be read")
    assert next(iter(change)).replace("_", "-") in " ".join([verdict.sentences[0], *run.notes]).replace("_", "-")


def test_settings_of_an_older_run() -> None:
    """A field that was added since has its default, one that is gone is left out."""
    values = json.loads(to_json(PretrainConfig("D", Path("RUN"), max_steps=9, lr=0.1, batch_size=32)))
    older = {name: value for name, value in values.items() if name not in ("mix", "version", "accumulate")}
    found = read_config(older | {"gone": 5}, Path("config.json"))
    assert found == PretrainConfig("D", Path("RUN"), max_steps=9, lr=0.1, batch_size=32)


@pytest.mark.parametrize(
    ("state", "mood", "headline"),
    [("diverged", "bad", "It diverged"), ("failed", "open", "It failed"), ("stopped", "open", "It was stopped"),
     ("running", "open", "It had not finished")],
)  # fmt: skip
def test_a_run_that_did_not_end(tmp_path: Path, state: str, mood: str, headline: str) -> None:
    """Its health is still reported."""
    found = judged(tmp_path / "run", flat(2.0, ()), status={**DONE, "state": state})
    assert (found[0], found[1][: len(headline)]) == (mood, headline)
    assert "Health at step 400: healthy" in found[2]


# --- no contradiction -----------------------------------------------------------------------------------------------


Case = tuple[PretrainConfig, dict[str, float], tuple[float, ...]]


def grid(dictionary: str) -> Iterator[Case]:
    """Settings, the last figures, and kNN accuracies: every mixture, figures that are missing and short runs too."""
    values: dict[str, Any] = {"dictionary": dictionary, "batch_size": 64, "queue_size": 1024, "bn_groups": 4}
    configs = [PretrainConfig("D", Path("RUN"), max_steps=steps, lr=0.06, **values) for steps in (36, 400)]
    for config, share, rank, uniformity, accuracy, knn in itertools.product(
        configs, (None, 0.98, 0.995, 1.2), (None, 1.8, 40.0), (None, -0.02, -2.5), (None, 99.5),
        ((), (20.0, 20.0), (20.0, 45.0), (45.0, 20.0)),
    ):  # fmt: skip
        steps = config.max_steps or 0
        chance = math.log(negatives(config) + 1)
        known = {
            "loss": None if share is None else share * chance, "chance_loss": chance, "effective_rank": rank,
            "head_uniformity": uniformity, "contrast_accuracy": accuracy, "epoch": steps / 20, "filled": 100.0,
        }  # fmt: skip
        figures = {name: value for name, value in known.items() if value is not None}
        if knn:
            figures |= {"knn_before": knn[0], "knn_top1": knn[-1], "knn_queries": 341.0}
        yield config, figures, knn


def as_run(config: PretrainConfig, figures: dict[str, float], knn: tuple[float, ...], stored: dict[str, Any]) -> Run:
    """A finished run whose metrics hold these figures, and the record of its health where there is one."""
    steps = config.max_steps or 0
    looks = [
        {"step": step, "knn_top1": value, "knn_queries": 341} for step, value in zip((0, steps), knn, strict=False)
    ]
    own = {name: value for name, value in figures.items() if not name.startswith("knn")}
    lines = [*looks, {"step": steps, **own}, *([{"step": steps, **stored}] if stored else [])]
    return Run("run", {"max_steps": steps}, {"state": "done", "step": steps}, {}, lines, {})


def contradictions(findings: list[Finding], verdict: Verdict, knn: tuple[float, ...]) -> list[str]:
    """What a reader could not bring together."""
    sick, sentences, headline = condition(findings), verdict.sentences, verdict.headline
    others = " ".join(sentences[1:])
    rose = knn == (20.0, 45.0)
    checks = {
        "its words are not the run's": sentences[0].partition(": ")[2] != describe_findings(findings),
        "it learned, and health found something": headline.startswith("It learned") and sick != "healthy",
        "it did not learn, and health says otherwise": headline.startswith("It did not") and sick != "failed",
        "it is praised for nothing": verdict.mood == "good" and not (sick == "healthy" and rose),
        "healthy, and yet bad or open": sick == "healthy" and verdict.mood in ("bad", "open"),
        "a finding is not in the headline": sick != "healthy" and not any(
            CAUSES[finding.name] in headline for finding in findings if finding.condition == sick
        ),
        "a finding that was not made": any(
            clause in headline for name, clause in CAUSES.items() if name not in {one.name for one in findings}
        ),
        "failed, and yet not bad": sick == "failed" and not rose and verdict.mood != "bad",
        "kNN rose, and it did not learn": rose and headline.startswith("It did not learn"),
        "a judgement of its own": any(word in others for word in ("collapse", "chance", "suspicious", "alike", "leak")),
        "a figure without a number": any(word in " ".join(sentences) for word in ("inf", "nan", "None")),
    }  # fmt: skip
    return [name for name, wrong in checks.items() if wrong]


@pytest.mark.parametrize("dictionary", ["queue", "memory-bank", "in-batch"])
def test_verdict_and_health_never_contradict_each_other(dictionary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the grid, in runs that stored their findings and in older ones, which are judged by the same function."""
    seen = set()
    for config, figures, knn in grid(dictionary):
        monkeypatch.setattr(module, "read_config", lambda values, where, config=config: config)  # which takes long
        findings = diagnose(config, config.max_steps or 0, figures)
        seen |= {(finding.name, finding.condition) for finding in findings}
        names, conditions = ([getattr(one, name) for one in findings] for name in ("name", "condition"))
        stored = {"health": describe_findings(findings), "findings": names, "conditions": conditions}
        for record in (stored, {}):
            verdict = judge(as_run(config, figures, knn, record))
            assert contradictions(findings, verdict, knn) == [], (config, figures, knn, verdict)
    assert seen == {
        ("unmeasured", "undecided"), ("collapsed", "undecided"), ("collapsed", "failed"), ("leak", "doubtful"),
        ("worse", "doubtful"), ("chance", "undecided"), ("chance", "failed"), ("short", "undecided"),
    }  # fmt: skip
