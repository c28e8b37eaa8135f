"""What `moco pretrain auto` says at its end is what its figures say."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from moco.pretraining.config import PretrainConfig
from moco.pretraining.explanation import UNKNOWN, describe_choice, describe_next, describe_result
from moco.pretraining.pace import Pace
from moco.pretraining.ways import Way

CLEAR = {"top1": 50.0, "difference": 12.0, "low": 8.0, "high": 16.0}
UNCLEAR = {"top1": 60.0, "difference": 0.5, "low": -3.0, "high": 4.0}


@pytest.mark.parametrize(
    ("baselines", "better", "unclear"),
    [
        ({"random": CLEAR, "pixels": CLEAR}, ["random weights", "raw pixels"], []),
        ({"random": CLEAR, "pixels": UNCLEAR}, ["random weights"], ["raw pixels"]),
        ({"random": UNCLEAR, "pixels": UNCLEAR}, [], ["random weights", "raw pixels"]),
    ],
)
def test_each_baseline_is_beaten_or_said_not_to_be(
    baselines: dict[str, Any], better: list[str], unclear: list[str]
) -> None:
    """An encoder that is no better than raw pixels is never called better without that being said."""
    lines = describe_result({}, {"baselines": baselines})
    for name in better:
        assert f"auto: the encoder is clearly better than {name} (50.0%): +12.0 points" in lines
    for name in unclear:
        said = f"auto: the encoder is NOT clearly better than {name} (60.0%): +0.5 points, 95% interval -3.0 to +4.0"
        assert any(line.startswith(said) for line in lines)
    assert len(lines) == len(better) + len(unclear)


def test_published_weights_are_advised_only_where_there_were_none() -> None:
    """By what a baseline says, and without labels by what views say."""
    watched = {"retrieval": 50.0, "retrieval_images": 100, "before": {"retrieval": 50.0}}
    for result, found in (({}, {"baselines": {"pixels": UNCLEAR}}), (watched, {})):
        for weights in (True, False):
            line = describe_result(result, found, weights=weights)[0]
            assert "Give more --minutes" in line
            assert ("published weights" not in line) is weights


def test_weights_that_training_did_not_help_are_said_to_be_unchanged() -> None:
    """Step 0 was kept."""
    kept = {"step": 0, "images": 90, "first_top1": 83.7, "top1": 83.7, "last_top1": 80.0}
    (line,) = describe_result({"kept": kept}, {})
    assert "did not clearly improve" in line
    assert "of 90 images are classified correctly by their neighbours before it" in line
    assert "83.7%" in line
    assert "80.0%" in line


def test_published_weights_are_compared_with_by_their_name() -> None:
    """Where they are better they are recommended; those that the run kept are not compared with themselves."""
    found = {"top1": 62.0, "queries": 338, "measured_on": "the test split", "baselines": {"timm:net": UNCLEAR}}
    first, second = describe_result({}, found)
    assert first == "auto: the encoder's kNN accuracy is 62.0% on 338 images of the test split"
    assert second.startswith("auto: the encoder is NOT clearly better than timm:net (60.0%): +0.5 points")
    assert second.endswith("may be as good without training; more --minutes may show a difference")
    worse = {"baselines": {"timm:net": {"top1": 70.0, "difference": -8.0, "low": -12.0, "high": -4.0}}}
    (line,) = describe_result({}, worse)
    assert line.endswith("Use these weights instead")
    said = "auto: the encoder is clearly WORSE than timm:net (70.0%): -8.0 points, 95% interval -12.0 to -4.0"
    assert line.startswith(said)
    kept = {"step": 0, "images": 90, "first_top1": 83.7, "top1": 83.7, "last_top1": 80.0}
    assert describe_result({"kept": kept}, found)[-1].endswith("The run kept these weights")


@pytest.mark.parametrize(
    ("now", "said"), [(60.0, "a good sign but no proof"), (41.0, "is NOT clearly better"), (20.0, "seems WORSE than")]
)
def test_without_labels_views_are_a_sign_and_no_proof(now: float, said: str) -> None:
    """And the last line says that nobody can say more; of a taught network nothing else is said."""
    result = {"retrieval": now, "retrieval_images": 400.0, "before": {"retrieval": 40.0}}
    first, last = describe_result(result, {})
    assert said in first
    assert f"{now:.1f}% of 400 images find their own second view, 40.0% did with the initial weights" in first
    assert last == UNKNOWN
    (taught,) = describe_result(result, {}, taught=True)
    assert taught.startswith(UNKNOWN)


def test_without_labels_weights_are_kept_by_their_views() -> None:
    """With the words for views."""
    kept = {"step": 0, "images": 384, "first_top1": 92.7, "top1": 92.7, "last_top1": 93.2, "by": "views"}
    result = {"retrieval": 93.2, "retrieval_images": 384.0, "before": {"retrieval": 92.7}, "kept": kept}
    first, last = describe_result(result, {})
    assert "92.7% of 384 images find their own second view before it, 93.2% after it" in first
    assert last == UNKNOWN


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        (10.0, "measurements took 0.8 of 10 minutes. The 12 steps of 4 images (0.8 passes) should take about 1.5 "
               "minutes; the rest is for 13 evaluations during training and the final one. Fewer than 200 steps may "
               "teach little: for more steps, give --minutes 33 or more and another --out. "
               "All reasons: runs/a/auto.json"),
        (None, "measurements took 0.8 minutes. The 12 steps of 4 images (0.8 passes) should take about 1.5 "
               "minutes, besides 13 evaluations during training and the final one. Fewer than 200 steps may teach "
               "little: for more steps, give larger --epochs or --max-steps and another --out. "
               "All reasons: runs/a/auto.json"),
    ],
)  # fmt: skip
def test_the_time_of_a_run_whose_length_is_given_is_not_that_of_minutes(minutes: float | None, said: str) -> None:
    """Where --epochs or --max-steps fixes the length, nothing is left over, and more --minutes would change nothing."""
    config = PretrainConfig("photos", Path("runs/a"), arch="resnet18", batch_size=4, image_size=64)
    pace = Pace(max_steps=12, knn_every=1, checkpoint_every=9, looks=13, training=90.0, log_every=20)
    *_, time = describe_choice(config, Way("quick", None, None, "because"), pace, minutes, 48.0, 60, 700_000)
    assert time == f"auto: time: {said}"


@pytest.mark.parametrize("labelled", [True, False])
def test_the_next_commands_can_be_typed_as_they_stand(labelled: bool) -> None:
    """A shell splits them into the very paths, whatever these hold."""
    run, data = "runs/my first", "photos of 'cats' & dogs"
    commands = [shlex.split(line) for line in describe_next(Path(run), data, labelled=labelled)[1:]]
    second = ["moco", "linear", "--weights", run, "--data", data]
    if not labelled:
        second = ["moco", "embed", "--weights", run, "--data", data, "--out", "features.npz"]
    assert commands == [["moco", "report", run], second, ["moco", "explore", run, "--data", data]]
    beside = describe_next(Path(run), data, labelled=labelled, beside="timm:net@my file")[1:]
    join = ["moco", "join", "--weights", run, "timm:net@my file", "--data", data, "--out", "joined.safetensors"]
    assert list(map(shlex.split, beside)) == [*commands, join]
    both = describe_next(Path(run), data, labelled=labelled, joined=Path(run, "both.safetensors"))
    assert f"joined with the weights it is {Path(run, 'both.safetensors')}" in both[0]
    taken = [shlex.split(line) for line in both[1:]]
    assert taken[1][taken[1].index("--weights") + 1] == str(Path(run, "both.safetensors"))
    assert [taken[0], *taken[2:]] == [commands[0], *commands[2:]]
    of_documents = describe_next(Path(run), data, labelled=labelled, documents=True)[1:]
    assert list(map(shlex.split, of_documents)) == commands[:2]


def test_no_time_for_the_comparison() -> None:
    """With labels that is said; without labels there was nothing to compare."""
    missing = "auto: no time was left to compare the encoder with its baselines: moco knn does"
    assert describe_result({"loss": 2.0}, {}, labelled=True) == [missing]
    assert describe_result({"loss": 2.0}, {}) == [UNKNOWN]


def test_whitened_weights_are_not_unchanged() -> None:
    """Weights that are whitened are not those that can be downloaded."""
    kept = {"step": 0, "images": 100, "first_top1": 80.0, "last_top1": 70.0, "top1": 80.0, "by": "neighbours"}
    gain = {"difference": 0.0, "low": -1.0, "high": 1.0, "top1": 80.0, "image_size": 128}
    found = {"top1": 80.0, "queries": 50, "measured_on": "the test split", "baselines": {"timm:x": gain}}
    whitened = {"kept": kept, "whitened": {"images": 90, "top1": 84.0, "plain_top1": 80.0}}
    assert "The run kept these weights" not in describe_result(whitened, found)[-1]
    assert "The run kept these weights" in describe_result({"kept": kept}, found)[-1]


def test_accuracies_during_the_run_stand_in_for_an_evaluation() -> None:
    """Also beside what whitening did, whose accuracy is of other images."""
    watched = {"before": {"knn_top1": 20.0}, "knn_top1": 50.0, "knn_queries": 40.0}
    said = "auto: kNN in the run: 20.0% before the first step, 50.0% at the end, on 40 images"
    assert describe_result(watched, {}) == [said]
    assert describe_result({**watched, "whitened": {"images": 90, "top1": 28.0, "plain_top1": 20.0}}, {})[-1] == said
    assert said not in describe_result(watched, {"top1": 80.0, "queries": 50, "measured_on": "the test split"})
