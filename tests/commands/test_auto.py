"""`moco pretrain auto` from the command line: three lines, a comparison, reasons in a file, the next commands."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image as PillowImage
from safetensors.torch import save_file

from moco.cli import main
from moco.commands import auto, conclusion, knn, readiness, scene
from moco.core.pair import Teacher
from moco.data.images import Images
from moco.data.parts import CROPS, FIRST_CROP
from moco.evaluation.config import KnnConfig
from moco.evaluation.features import Encoding, RandomViews
from moco.evaluation.teacher import load_teacher
from moco.interop.checkpoints import load_weights
from moco.pretraining import timing
from moco.pretraining.config import PretrainConfig
from moco.pretraining.timetable import Timetable
from moco.pretraining.timing import StepTime
from tests.slow import slow

CPU = ["--device", "cpu", "--threads", "1", "--precision", "fp32", "--workers", "0"]
SECONDS = 12.0


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A machine whose steps, looks and images take their time, without published weights; types are not checked.

    A new head is left as it is drawn: to whiten it takes longer than the steps (`pretraining/test_continued.py` does).
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr("moco.pretraining.sides.whiten_new_head", lambda *_: None)
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    if "measured" not in request.fixturenames:
        monkeypatch.setattr(readiness, "time_step", lambda *_: StepTime(4.0, 0.5))
        monkeypatch.setattr(readiness, "_seconds", lambda _: 0.3)
        monkeypatch.setattr(readiness, "measure_encoding", lambda *_: 0.002)


@pytest.fixture
def measured() -> None:
    """For tests in which speeds are really measured."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 photographs of two classes, light and dark, in the current folder; a tiny published network beside them."""
    rng = np.random.default_rng(0)
    for i in range(24):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (100, 100, 3), dtype=np.uint8) + np.uint8(50 * (i % 2))
        PillowImage.fromarray(pixels).save(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.jpg")
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*more: str) -> list[str]:
    """The command line."""
    return ["pretrain", "auto", "--data", "photos", "--out", "run", "--minutes", str(SECONDS / 60), *more, *CPU]


def reasons() -> dict[str, Any]:
    """What auto.json holds."""
    found: dict[str, Any] = json.loads(Path("run/auto.json").read_text())
    return found


def test_from_scratch(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three lines say what was chosen; the end says what was reached, where the encoder is, and what to do next."""
    assert main(start()) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.partition(":")[2].partition(":")[0].strip() for line in lines[:3]] == ["network", "method", "time"]
    assert "from scratch, because this machine has no published weights" in lines[1]
    assert "--download yes fetches timm:tf_efficientnet_lite0, 19 MB" in lines[1]
    assert "resnet18-w16 with views of 64 pixels" in err
    assert "better than random weights" in out
    assert lines[-4].startswith("auto: the encoder is run/encoder.safetensors")
    assert [line.split()[1] for line in lines[-3:]] == ["report", "linear", "explore"]
    told = reasons()
    config = json.loads(Path("run/config.json").read_text())
    assert all(entry["reason"] for entry in told["settings"].values())
    assert told["settings"]["max_steps"]["value"] == config["max_steps"]
    assert (Path("run") / "evaluations" / "knn.json").is_file()
    assert main(start()) == 0  # its own settings are kept, whatever would be measured now
    assert "already holds a run: keeping its settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "recipe"),
    [(["--init-weights", "NET"], "continued"), (["--init-weights", "NET", "--for", "small"], "reduced"),
     (["--teacher", "NET"], "reduced"),
     pytest.param(["--teacher", "NET", "--for", "accurate"], "continued", marks=pytest.mark.slow)],
)  # fmt: skip
def test_with_weights(data: Path, capsys: pytest.CaptureFixture[str], more: list[str], recipe: str) -> None:
    """They are compared as they are with random weights and pixels, then trained on, or they teach."""
    words = [word.replace("NET", "timm:test_efficientnet@net.safetensors") for word in more]
    assert main([*start(*words), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["way"] == recipe
    assert {one["name"] for one in reasons()["compared"]} == {
        "random weights", "raw pixels", "timm:test_efficientnet@net.safetensors"}  # fmt: skip
    assert "<- chosen" in err
    assert "too short for trials of other methods" in reasons()["way"]["why"]
    config = json.loads(Path("run/config.json").read_text())
    assert (config["keep"], config["arch"]) == ("best" if recipe == "continued" else "last", "timm:test_efficientnet")


@pytest.mark.usefixtures("measured")
def test_a_teacher_knows_more_images_than_speeds_are_measured_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are those of all images, and the log of a measured step asks for their labels."""
    monkeypatch.setattr(readiness, "TRIAL_IMAGES", 8)
    monkeypatch.setattr(readiness, "TIMING", (0.1, 0.1))
    monkeypatch.setattr(readiness, "FINAL_TIMING", (0.1, 0.1))
    words = ["--teacher", "timm:test_efficientnet@net.safetensors", "--log-every", "1", "--max-steps", "2"]
    assert main(start(*words)) == 0
    assert reasons()["way"]["recipe"] == "reduced"


def test_a_whitening_that_would_take_too_long_is_left_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing it counts, not only encoding the images."""
    monkeypatch.setattr("moco.evaluation.feature_whitening.SECONDS_A_NUMBER", 1.0)
    assert main(start("--max-steps", "2")) == 0
    assert reasons()["settings"]["whiten"]["value"] == 0
    assert "whitened" not in json.loads(Path("run/status.json").read_text())["result"]


NET = "timm:test_efficientnet@net.safetensors"


@pytest.mark.parametrize(
    ("share", "given", "expected"),
    [(0.25, (), ("cached", 0)), (0.001, (), ("live", 0)), slow(0.001, ("--teacher-crops", "2"), ("cached", 2))],
)
def test_a_teacher_sees_what_its_student_sees(
    data: Path, monkeypatch: pytest.MonkeyPatch, share: float, given: tuple[str, ...], expected: tuple[str, int]
) -> None:
    """Whole images, and crops where they are asked for, or each step's views if the time is short.

    The student has the weights' mean, which is not the recipes': from normalised views a live teacher takes it back.
    """
    save_file(timm.create_model("test_resnet").state_dict(), "resnet.safetensors")
    asked = dict[str, Any]()

    def note(name: str, images: Images, student: Encoding, device: str, **how: Any) -> Teacher:
        asked.update(how, student=student)
        return load_teacher(name, images, student, device, **how)

    monkeypatch.setattr("moco.commands.pretrain.load_teacher", note)
    monkeypatch.setattr("moco.commands.scene.ENCODED_BY_TEACHER", share)
    monkeypatch.setattr("moco.commands.scene.measure_encoding", lambda *_: 0.002)
    assert (
        main([*start("--teacher", "timm:test_resnet@resnet.safetensors", "--seed", "3", "--max-steps", "2", *given)])
        == 0
    )
    config = json.loads(Path("run/config.json").read_text())
    assert (config["teacher_views"], config["teacher_crops"]) == expected
    assert asked["crops"] == [RandomViews(CROPS, 3, FIRST_CROP + number) for number in range(1, 1 + expected[1])]
    assert list(asked["student"].mean) == config["mean"] == [0.5] * 3


def test_published_weights_are_a_baseline(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end, beside random weights and raw pixels: by the same figures as moco knn has with --baseline."""
    assert main([*start("--init-weights", NET, "--minutes", "60", "--max-steps", "2"), "--json"]) == 0
    out, err = capsys.readouterr()
    knn = json.loads(out)["knn"]
    assert set(knn["baselines"]) == {"random", "pixels", NET}
    line = (
        f"better than {NET.partition('@')[0]} at {knn['baselines'][NET]['image_size']} pixels "
        f"({knn['baselines'][NET]['top1']:.1f}%): {knn['baselines'][NET]['difference']:+.1f} points"
    )
    assert line in err
    assert f"auto: the encoder's kNN accuracy is {knn['top1']:.1f}% on {knn['queries']} images" in err


def test_what_was_trained_from_scratch_is_joined_with_published_weights(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where these are on the machine, are not clearly better than the baselines, and there is time."""
    monkeypatch.setattr(scene, "find_weights", lambda *_, **__: (NET, "they are on this machine"))
    assert main([*start("--minutes", "60", "--max-steps", "2"), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["way"] == "quick"
    told = reasons()["evaluation"]
    assert told["joined"]
    assert set(result["joined"]["baselines"]) == {"run", NET}
    assert (Path("run") / conclusion.JOINED).is_file()
    assert "(run/joined.safetensors), it reaches " in err


@pytest.mark.parametrize(
    ("more", "recipe"), [([], "quick"), slow(["--for", "small"], "taught"), (["--teacher", NET], "taught")]
)
def test_a_given_network_is_kept_where_there_are_weights_of_another(
    data: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], recipe: str
) -> None:
    """Weights that auto found itself are not what such a run begins with: they can only teach it."""
    monkeypatch.setattr(scene, "find_weights", lambda *_, **__: (NET, "they are on this machine"))
    for path in Path("photos").glob("*/*.jpg"):
        path.rename(data / "photos" / path.name)
    assert main([*start("--arch", "resnet18-w4", "--max-steps", "2"), *more]) == 0
    assert json.loads(Path("run/config.json").read_text())["arch"] == "resnet18-w4"
    assert reasons()["way"]["recipe"] == recipe
    assert ("--arch resnet18-w4 is given" in reasons()["way"]["why"]) == (not more)


def test_without_labels(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is compared, the rule decides, and both ends say so."""
    for path in Path("photos").glob("*/*.jpg"):
        path.rename(data / "photos" / path.name)
    assert main(start("--init-weights", "timm:test_efficientnet@net.safetensors")) == 0
    out = capsys.readouterr().out
    assert "no labels to compare methods by" in out
    assert "find their own second view" in out
    assert "without labels moco cannot measure how well the encoder separates your classes" in out
    kept = json.loads(Path("run/status.json").read_text())["result"]["kept"]
    assert (kept["by"], kept["images"]) == ("views", 24)
    assert reasons()["compared"] == []


@pytest.mark.parametrize(
    "again", [pytest.param(["resume", "run"], id="resume"), slow(start("--max-steps", "4"), id="the same")]
)
def test_an_interrupted_run_ends_as_auto_does(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], again: list[str]
) -> None:
    """With the evaluation and the next commands, by whichever command it goes on; then there is nothing to say."""
    plan = Timetable.plan

    def stop(timetable: Timetable, step: int) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return plan(timetable, step)

    monkeypatch.setattr(Timetable, "plan", stop)
    assert main(start("--max-steps", "4")) == 75
    assert "Next:" not in capsys.readouterr().out
    monkeypatch.setattr(Timetable, "plan", plan)
    assert main(again) == 0
    out = capsys.readouterr().out
    assert "better than random weights" in out
    assert [line.split()[1] for line in out.splitlines()[-3:]] == ["report", "linear", "explore"]
    assert main(again) == 0
    assert "Next:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "again", [pytest.param(["resume", "run"], id="resume"), slow(start("--max-steps", "2"), id="the same")]
)
def test_an_interrupted_comparison_is_made_up_for(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], again: list[str]
) -> None:
    """The run is finished by then; then there is nothing to say."""
    evaluate = knn.run

    def interrupt(_: KnnConfig) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(knn, "run", interrupt)
    assert main(start("--max-steps", "2")) == 130
    assert "not compared: moco resume run compares it" in capsys.readouterr().err
    monkeypatch.setattr(knn, "run", evaluate)
    assert main(again) == 0
    out = capsys.readouterr().out
    assert "better than random weights" in out
    assert [line.split()[1] for line in out.splitlines()[-3:]] == ["report", "linear", "explore"]
    assert main(again) == 0
    assert "Next:" not in capsys.readouterr().out


@pytest.mark.parametrize("again", [["resume", "run"], start("--init-weights", NET, "--max-steps", "2")],
                         ids=["resume", "the same"])  # fmt: skip
@pytest.mark.parametrize("at", ["training", "comparison"])
def test_an_interrupted_run_ends_without_the_file_that_it_began_with(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], again: list[str], at: str
) -> None:
    """It trains and is compared with all else; one line says which comparison is left out, and why."""
    evaluate, plan = knn.run, Timetable.plan

    def interrupt(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr("moco.commands.knn.run" if at == "comparison" else f"{Timetable.__module__}.Timetable.plan",
                        interrupt)  # fmt: skip
    assert main(start("--init-weights", NET, "--max-steps", "2")) == (75 if at == "training" else 130)
    monkeypatch.setattr(Timetable, "plan", plan)
    monkeypatch.setattr(knn, "run", evaluate)
    told = reasons()
    told["evaluation"]["published"] = True
    Path("run/auto.json").write_text(json.dumps(told))
    Path(NET.partition("@")[2]).unlink()
    capsys.readouterr()
    assert main(again) == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if NET in line]
    assert line.startswith(f"auto: not compared with {NET}, which cannot be read (")
    assert "better than random weights" in out
    assert [line.split()[1] for line in out.splitlines()[-3:]] == ["report", "linear", "explore"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else it would be known when an eighth and a fifth of the time are spent."""
    monkeypatch.setattr(auto, "open_scene", lambda *_: pytest.fail("opened"))
    (data / "run").write_text("")
    for place in ("run", "run/below"):
        assert main([*start(), "--out", place]) == 2
        assert capsys.readouterr().err == f"moco: error: --out {place}: cannot be written: give a folder that can\n"


def test_given_settings_stay(data: Path) -> None:
    """In the run that is made of them."""
    assert main(start("--queue-size", "7", "--symmetric", "--max-steps", "2")) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert (config["queue_size"], config["symmetric"], config["max_steps"]) == (7, True, 2)
    assert reasons()["settings"]["queue_size"] == {"value": 7, "reason": "as given"}


def test_it_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Its flags, and that those of pretrain may be given."""
    with pytest.raises(SystemExit):
        main(["pretrain", "auto", "--help"])
    out = " ".join(capsys.readouterr().out.partition("\n")[2].split())  # without the line of usage
    places = [out.index(f"{flag} ") for flag in ("--minutes", "--data", "--out", "--for", "--download")]
    assert places == sorted(places)
    assert "You can also give any flag of moco pretrain" in out
    assert "--key-momentum" not in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--minutes", "1e308"], "--minutes is 1e+308: expected more than 0, at most 527040"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--tau", "1"], "--tau"),
        (["--for", "both"], "--for"),
        (["--init-weights", "nothing"], "nothing"),
        (["--init-weights", "a", "--teacher", "b"], "--init-weights and --teacher are both given"),
        (["--data", "none"], "none"),
    ],
)
def test_absurd_wishes(data: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    """Are refused in a line, and nothing is left behind."""
    assert main(start(*more)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


@pytest.fixture
def scenes(data: Path) -> Path:
    """Sixteen images of four channels and 16 bits, of two classes that differ in the last channel."""
    rng = np.random.default_rng(0)
    for i in range(16):
        (data / "scenes" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        values = rng.integers(1000, 2000, (4, 100, 100)).astype(np.uint16)
        values[3] += np.uint16(9000 * (i % 2))
        tifffile.imwrite(data / "scenes" / "ab"[i % 2] / f"{i:02}.tif", values, photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
    return data


@pytest.mark.parametrize(("more", "recipe"), [(["--for", "small"], "quick"), (["--init-weights", NET], "continued")])
def test_other_channels(scenes: Path, capsys: pytest.CaptureFixture[str], more: list[str], recipe: str) -> None:
    """Four channels of 16 bits, from scratch or by weights with another first layer; then kNN's figure."""
    assert main([*start(*more, "--minutes", "60", "--max-steps", "2"), "--data", "scenes", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["way"] == recipe
    assert set(result["knn"]["baselines"]) == {"random", "pixels"}
    assert "images of 4 channels of uint16: views change brightness" in err
    if recipe == "continued":
        assert f"without training: {NET}, its first layer for 4 channels," in err
        assert "the first layer takes 4 channels: its three channels in turn" in err
    else:
        assert "from scratch, because published weights, which would teach, take RGB, and these images are 4" in err
    form = load_weights("run").form
    assert form is not None
    assert (form.channels, form.depth) == (4, "uint16")


@pytest.mark.parametrize("given", [["--for", "small", "--init-weights", NET], ["--channels", "3"]])
def test_channels_that_do_not_fit(scenes: Path, capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    """A teacher of RGB cannot see them; and they are four."""
    assert main([*start(*given), "--data", "scenes"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert ("these weights take RGB, and the images are 4 channels" in err) == ("small" in given)
    assert not Path("run").exists()


def test_too_few_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line."""
    for path in sorted(Path("photos").glob("*/*.jpg"))[3:]:
        path.unlink()
    assert main(start()) == 2
    assert "3 training images, expected at least 4" in capsys.readouterr().err


def test_several_processes_are_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would measure different speeds."""
    monkeypatch.setattr("moco.runtime.distributed.world_size", lambda: 2)
    assert main(start()) == 2
    assert "runs in one process" in capsys.readouterr().err


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_measuring_can_be_interrupted(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Exit code 130, at once, and nothing is left behind."""
    temporary = data / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    begin = timing.TimedBatches.run

    def run(batches: timing.TimedBatches, *place: int) -> Any:
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        for batch in begin(batches, *place):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(timing.TimedBatches, "run", run)
    before = time.monotonic()
    assert main(start("--minutes", "600")) == 130
    assert time.monotonic() - before < 60
    assert capsys.readouterr().err.endswith("moco: error: interrupted\n")
    assert not Path("run").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [False, True])
def test_an_interruption_before_the_run_begins_leaves_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals,
    before: bool,
) -> None:  # fmt: skip
    """Exit code 130 and one line; what was in the folder before stays."""
    if before:
        Path("run").mkdir()
        Path("run/notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr("moco.commands.pretrain.train_prepared", lambda *_: signal.raise_signal(number))
        assert main(start("--max-steps", "2")) == 130
    assert capsys.readouterr().err.endswith("moco: error: interrupted\n")
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"] if before else not Path("run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_comparison_can_be_interrupted(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Also where it is made up for, and where a library makes an error of its own of the signal."""

    def evaluate(_: KnnConfig) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of an object") from None

    with monkeypatch.context() as patch:
        patch.setattr(knn, "run", evaluate)
        for _ in range(2):
            assert main(start("--max-steps", "2")) == 130
            said = capsys.readouterr().err
            assert "not compared: moco resume run compares it" in said
            assert said.endswith("moco: error: interrupted\n")
    assert json.loads(Path("run/status.json").read_text())["state"] == "done"


def test_the_last_evaluation_is_of_the_images_that_were_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What --exclude and --most-pixels leave out of one, they leave out of the other."""
    asked = list[KnnConfig]()
    told = {"way": {"recipe": "quick"}, "evaluation": {"seconds": 1.0, "random": True, "published": False},
            "weights": None, "labelled": True}  # fmt: skip
    monkeypatch.setattr(conclusion, "_read_chosen", lambda _: told)
    monkeypatch.setattr(conclusion, "describe_result", lambda *_, **__: ())

    def evaluate(given: KnnConfig) -> dict[str, Any]:
        asked.append(given)
        return {}

    monkeypatch.setattr(knn, "run", evaluate)
    conclusion.conclude(PretrainConfig("D", tmp_path, exclude=("masks",), most_pixels=900), {}, "D")
    assert [(one.exclude, one.most_pixels) for one in asked] == [(("masks",), 900)]


@pytest.mark.parametrize(
    ("random", "pixels", "names"), [(False, True, ("pixels", "W")), (True, True, ("W",)), (False, False, ("W",))]
)
def test_raw_pixels_are_compared_with_where_random_weights_take_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random: bool, pixels: bool, names: tuple[str, ...]
) -> None:
    """They take hardly longer than reading the images; random weights bring them along."""
    told = {"way": {"recipe": "continued"}, "weights": "W", "labelled": True,
            "evaluation": {"seconds": 1.0, "random": random, "published": True, "pixels": pixels}}  # fmt: skip
    monkeypatch.setattr(conclusion, "_read_chosen", lambda _: told)
    monkeypatch.setattr(conclusion, "load_weights", lambda *_: None)
    monkeypatch.setattr(conclusion, "describe_result", lambda *_, **__: ())
    asked = list[tuple[bool, tuple[str, ...]]]()

    def evaluate(given: KnnConfig) -> dict[str, Any]:
        asked.append((given.baseline, given.baselines))
        return {"baselines": {}}

    monkeypatch.setattr(knn, "run", evaluate)
    conclusion.conclude(PretrainConfig("D", tmp_path), {}, "D")
    assert asked == [(random, names)]


def test_a_comparison_that_was_left_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With labels a person expects one; without labels there is none to expect."""
    for labelled in (True, False):
        told = {"way": {"recipe": "quick"}, "evaluation": {"seconds": 0.0, "random": False, "published": False},
                "weights": None, "labelled": labelled}  # fmt: skip
        monkeypatch.setattr(conclusion, "_read_chosen", lambda _, told=told: told)
        conclusion.conclude(PretrainConfig("D", tmp_path), {}, "D")
        assert ("no time was left to compare" in capsys.readouterr().out) == labelled


@pytest.mark.parametrize(
    ("recipe", "weights", "said"),
    [("quick", "timm:net", True), ("quick", None, False), ("continued", "timm:net", False)],
)
def test_published_weights_can_be_joined_with_what_was_trained_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: str,
    weights: str | None, said: bool,
) -> None:  # fmt: skip
    """A run that begins with the weights knows what they know; one from scratch knows other things."""
    told = {"way": {"recipe": recipe}, "evaluation": {"seconds": 0.0, "random": False, "published": False},
            "weights": weights, "labelled": True}  # fmt: skip
    monkeypatch.setattr(conclusion, "_read_chosen", lambda _: told)
    conclusion.conclude(PretrainConfig("D", tmp_path), {}, "D")
    command = f"  moco join --weights {tmp_path} timm:net --data D --out joined.safetensors\n"
    assert (command in capsys.readouterr().out) == said
