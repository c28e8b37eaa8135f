"""The command line: help names every flag, mistakes are one line and exit code 2, `--json` ends with one object."""

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch._dynamo.exc import TorchDynamoException

import moco
from moco import cli
from moco.bench.config import BenchConfig
from moco.cli import COMMANDS, main
from moco.data.config import PackConfig
from moco.errors import BadInputError, DivergedError, StoppedError, VoidError
from moco.evaluation.config import KnnConfig
from moco.pretraining.config import PretrainConfig, ResumeConfig
from moco.pretraining.recipes import RECIPES
from moco.report.config import ReportConfig
from moco.runtime.fields import flag
from moco.runtime.runlog import RunLog
from moco.transfer.config import TransferConfig
from moco.transfer.recipes import TASKS

pytestmark = pytest.mark.usefixtures("few_digits")
RANDOM = ["knn", "--weights", "random", "--arch", "resnet10-w8", "--stem", "cifar", "--image-size", "16"]
SMALL = [
    "--arch",
    "resnet10-w8",
    "--dictionary",
    "queue",
    "--image-size",
    "16",
    "--batch-size",
    "32",
    "--queue-size",
    "64",
    "--max-steps",
    "2",
    "--knn-every",
    "0",
]
CPU = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Types are not checked (a flag that must be given has a placeholder), help is wide, threads are put back."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setenv("COLUMNS", "200")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images: `flat` (40), `one-class` (40), `broken` (40 of which one is empty), `none`."""
    rng = np.random.default_rng(0)
    for folder in ("flat", "one-class/cat", "broken"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            PillowImage.fromarray(pixels).save(tmp_path / folder / f"{i:02}.png")
    (tmp_path / "broken" / "39.png").write_bytes(b"")
    for name in ("none", "d.npz", "d.safetensors"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *parts: str) -> None:
    """The command must end with exit code 2 and one line that holds each of `parts`, and without a traceback."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("moco: error: "), err
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    for part in parts:
        assert part in err


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON object that is all of standard output."""
    (last,) = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert isinstance(result, dict)
    return result


# --- help -----------------------------------------------------------------------------------------------------------


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a call for help prints before it exits with 0."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]], ids=str)
def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """With the first line of what it does."""
    text = help_of(capsys, *arguments)
    for name, kind in COMMANDS.items():
        assert name in text
        assert (kind.__doc__ or "?").splitlines()[0] in text


@pytest.mark.parametrize("arguments", [["pretrain"], ["pretrain", "-h"], ["pretrain", "--help"]], ids=str)
def test_pretrain_names_every_recipe(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """With what it is."""
    text = help_of(capsys, *arguments)
    for name, recipe in RECIPES.items():
        assert name in text
        assert recipe.about in text


@pytest.mark.parametrize("arguments", [["transfer"], ["transfer", "-h"], ["transfer", "--help"]], ids=str)
def test_transfer_names_every_task(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """With what it is."""
    text = help_of(capsys, *arguments)
    for name, task in TASKS.items():
        assert name in text
        assert task.about in text


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        *((["pretrain", name], PretrainConfig) for name in RECIPES),
        (["resume"], ResumeConfig),
        (["knn"], KnnConfig),
        (["pack"], PackConfig),
        (["bench"], BenchConfig),
        (["report"], ReportConfig),
        *((["transfer", name], TransferConfig) for name in ("voc-c4", "voc-semantic")),
    ],
    ids=str,
)
def test_help_names_every_flag(capsys: pytest.CaptureFixture[str], command: list[str], kind: type[Any]) -> None:
    """Every field of the command's config is a flag, or a run folder; a recipe's own are in the short one."""
    text, short = help_of(capsys, *command, "--help-all"), help_of(capsys, *command, "-h")
    assert f"usage: moco {' '.join(command)}" in text
    assert short.splitlines()[0] == text.splitlines()[0]
    rows = re.findall(r"^  --(\S+?),?(?: |$)", text, re.MULTILINE)
    assert len(rows) == len(set(rows))
    for own in RECIPES[command[1]].own_flags if kind is PretrainConfig else ():
        assert f"\n  {flag(own)}" in short
    needed = RECIPES[command[1]].needs if kind is PretrainConfig else None
    assert needed is None or f"{flag(needed)} W" in text.splitlines()[0]
    for field in dataclasses.fields(kind):
        if (kind, field.name) == (TransferConfig, "task"):  # said by its place
            continue
        name = {"baseline": "no_baseline", "baselines": "baseline W"}.get(field.name, field.name)
        assert ("RUN" if name in ("run", "runs") else flag(name)) in text
    words = " ".join(text.split())
    assert "End with one JSON object on standard output." in words


def test_help_shows_of_which_flags_one_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """In the usage, behind those that are always needed."""
    usage = help_of(capsys, "search", "--help").splitlines()[0]
    assert usage == "usage: moco search --weights W --data D (--image PATH | --index INT | --near PATH...) [flags]"


def test_help_shows_the_symbol_and_the_recipe_s_value(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a recipe shows what that recipe does."""
    words = " ".join(help_of(capsys, "pretrain", "v2", "--help-all").split())
    assert "tau: divides the similarities in the loss. (default: 0.2)" in words
    assert "theta_k <- m theta_k + (1 - m) theta_q" in words
    assert "Recipe v2: MoCo v2 (arXiv:2003.04297)" in words


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("v2", "Pre-train an encoder on unlabelled images by momentum contrast."),
        ("quick", "Pre-train an encoder on unlabelled images by contrast within each batch."),
        ("taught", "Train an encoder on unlabelled images to match the features of a teacher."),
        ("reduced", "Train an encoder on unlabelled images to match the features of a teacher."),
        ("text", "Pre-train an encoder on unlabelled documents by momentum contrast."),
    ],
)
def test_help_begins_with_what_the_recipe_does(capsys: pytest.CaptureFixture[str], name: str, opening: str) -> None:
    """A teacher makes the keys of some, and the batch those of others; text has no images."""
    words = " ".join(help_of(capsys, "pretrain", name, "--help").split())
    assert f"[flags] {opening} Recipe {name}: " in words


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """A number."""
    assert help_of(capsys, "--version").strip()[0].isdigit()


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["pretran", "v1"], ["pretran is not a command", "did you mean pretrain?"]),
        (["xyzzy"], ["xyzzy is not a command", "pretrain, resume, report"]),
        (["pretrain", "quik", "--data", "digits", "--out", "run"], ["quik is not a recipe", "did you mean quick?"]),
        (
            ["pretrain", "fast", "--data", "d", "--out", "r"],
            ["fast is not a recipe", "expected one of auto, v1, v2", "auto picks the settings"],
        ),
        (["pretrain", "--data", "digits", "--out", "run"], ["--data is not a recipe", "v1, v2"]),
        (
            ["pretrain", "v1", "--data", "d", "--out", "run", "--batchsize", "3"],
            ["--batchsize is not", "did you mean --batch-size?"],
        ),
        (["pretrain", "v1", "--data", "d", "--out", "run", "--tau", "3"], ["--tau"]),
        (
            ["pretrain", "v1", "--data", "d", "--out", "run", "--epochs", "many"],
            ["--epochs is many: expected a whole number"],
        ),
        (
            ["pretrain", "v1", "--data", "d", "--out", "run", "--augment", "v3"],
            ["--augment is v3: expected one of v1, v2, cifar"],
        ),
        (["pretrain", "v1", "--data", "d", "--out", "run", "--mean", "half"], ["--mean is half: expected numbers"]),
        (["pretrain", "v1", "--data", "d", "--out", "run", "--epochs"], ["--epochs needs a value"]),
        (["pretrain", "v1", "--data", "d", "--out", "run", "more"], ["more is not expected here"]),
        (["pretrain", "v1", "--data", "digits"], ["--out"]),
        (["pretrain", "v1", "--out", "run"], ["--data"]),
        (["resume"], ["moco resume needs RUN"]),
        (["knn"], ["moco knn needs --weights and --data"]),
        (["knn", "--weigths", "random", "--data", "digits"], ["--weigths is not", "did you mean --weights?"]),
        (["knn", "--weights", "", "--data", "digits"], ["after --weights is empty"]),
        (["knn", "--weights=", "--data", "digits"], ["after --weights is empty"]),
        (["report", "run", ""], ["after run is empty"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_in_the_flags(capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]) -> None:
    """The message names what was given and what was expected, and where help is."""
    check_refused(capsys, arguments, *parts, *([] if "empty" in parts[0] else ["--help"]))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["pretrain", "quick", "--data", "none", "--out", "run"], ["--data none", "no image", ".png"]),
        (["pretrain", "quick", "--data", "gone", "--out", "run"], ["--data gone", "digits"]),
        (["pretrain", "quick", "--data", "new\nline", "--out", "run"], ["line"]),
        (["pretrain", "quick", "--data", "flat", "--out", "run"], ["--batch-size is 128", "40 images"]),
        (["pretrain", "quick", "--data", "digits", "--out", "run", "--queue-size", "0"], ["--queue-size is 0"]),
        (["pretrain", "quick", "--data", "digits", "--out", "run", "--temperature", "-1"], ["--temperature is -1"]),
        (["pretrain", "quick", "--data", "digits", "--out", "run", "--arch", "resnet51"], ["resnet51", "resnet50"]),
        (["pretrain", "quick", "--data", "digits", "--out", "run", "--init-weights", "gone"], ["gone"]),
        (["resume", "none"], ["none", "no run to continue"]),
        (["knn", "--weights", "gone", "--data", "digits"], ["--weights gone", "encoder.safetensors"]),
        (["knn", "--weights", "none", "--data", "digits"], ["--weights none", "encoder.safetensors"]),
        (["knn", "--weights", "random", "--data", "digits"], ["--like", "--arch", "--image-size"]),
        (["knn", "--weights", "random", "--like", "gone", "--data", "digits"], ["gone"]),
        ([*RANDOM, "--data", "gone"], ["--data gone"]),
        ([*RANDOM, "--data", "flat"], ["labels", "class folders"]),
        ([*RANDOM, "--data", "one-class"], ["labels", "at least two"]),
        ([*RANDOM, "--data", "digits", "--knn-k", "0"], ["--knn-k is 0"]),
        ([*RANDOM, "--data", "gone", "--baseline", "none"], ["--baseline none: a folder without"]),
        ([*RANDOM, "--data", "gone", "--baseline", "timm:resnet99"], ["--baseline timm:resnet99"]),
        ([*RANDOM, "--data", "gone", "--baseline", "random"], ["--baseline random", "./random"]),
        ([*RANDOM, "--data", "digits", "--baseline"], ["--baseline needs a value"]),
        ([*RANDOM, "--data", "digits", "--seed", str(2**64)], ["--seed"]),
        ([*RANDOM, "--data", "digits", "--like", "none"], ["--like and --arch", "leave one out"]),
        (["knn", "--weights", "none", "--arch", "resnet18", "--data", "digits"], ["--arch is for --weights random"]),
        (["embed", *RANDOM[1:], "--data", "digits", "--out", "none"], ["ends in .npz"]),
        (["embed", *RANDOM[1:], "--data", "digits", "--out", "d.npz"], ["--out d.npz", "that is a folder"]),
        (["finetune", *RANDOM[1:], "--data", "digits", "--save", "d.safetensors"], ["--save d.safetensors", "folder"]),
        (["finetune", *RANDOM[1:], "--data", "digits", "--save", "file/x.safetensors"], ["--save", "no file can be"]),
        (["export", "--weights", "gone", "--format", "torchvision", "--out", "file/x"], ["--out file/x"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:the queue holds")
def test_a_mistake_in_the_values(
    capsys: pytest.CaptureFixture[str], data: Path, arguments: list[str], parts: list[str]
) -> None:
    """The message names the flag or the file; no run is left behind."""
    check_refused(capsys, arguments, *parts)
    assert not (data / "run" / "checkpoints").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says which are."""
    check_refused(capsys, [*RANDOM, "--data", "digits", "--device", "cuda"], "--device cuda", "cpu")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_bad_image_in_training(capsys: pytest.CaptureFixture[str], data: Path, workers: str) -> None:
    """Large images are decoded while the run goes on, also in another process: it is named, and the run goes on."""
    for path in (data / "broken").iterdir():
        if path.stat().st_size:
            PillowImage.new("RGB", (100, 100), "grey").save(path)
    arguments = ["pretrain", "quick", "--data", "broken", "--out", "run", "--batch-size", "40", "--queue-size", "40"]
    arguments += ["--arch", "resnet10-w4", "--image-size", "16", "--epochs", "1"]
    more = ["--knn-every", "0", "--workers", workers, *CPU]
    assert main([*arguments, *more]) == 0
    (notice,) = [line for line in capsys.readouterr().out.splitlines() if "39.png: cannot be read" in line]
    assert notice.startswith("step 1: ")
    assert notice.endswith(": remove or replace it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "version 1"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "config.json"),
        (b'{"version": 1, "colour": "blue"}', "key"),
    ],
)
def test_a_run_whose_config_is_damaged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, message: str
) -> None:
    """The message names the file."""
    (tmp_path / "config.json").write_bytes(content)
    check_refused(capsys, ["resume", str(tmp_path)], str(tmp_path / "config.json"), message)


def test_weights_that_are_damaged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "encoder.safetensors").write_bytes(b"<html>not found</html>")
    check_refused(capsys, ["knn", "--weights", str(tmp_path), "--data", "digits"], str(tmp_path), "safetensors")


# --- what a command gives back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["run", "file", "random"])
def test_knn_ends_with_one_json_object(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path, source: str
) -> None:
    """What people read is on standard error; a run keeps the result, other weights have no place for it."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    weights = {"run": run, "file": run / "encoder.safetensors", "random": "random"}[source]
    like = ["--like", str(run)] if source == "random" else []
    assert main(["knn", "--weights", str(weights), *like, "--data", "digits", "--json", *CPU]) == 0
    result = last_line(capsys)
    assert (result["bank"], result["queries"]) == (480, 120)
    assert result["weights"] == str(weights)
    assert 10 < result["top1"] <= result["top5"] <= 100
    kept = run / "evaluations" / "knn.json"
    assert kept.exists() == (source == "run")
    if source == "run":
        stored = json.loads(kept.read_text())
        assert {name: stored[name] for name in result} == result
        assert stored["config"]["knn_k"] is None


def test_knn_without_json_ends_for_people(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    """One line with both figures, the k that was chosen, and a line for each baseline."""
    assert main(["knn", "--weights", str(tiny_run / "encoder.safetensors"), "--data", "digits", *CPU]) == 0
    line, *beside = capsys.readouterr().out.splitlines()
    assert "kNN top-1" in line
    assert "chosen by leave-one-out; " in line
    assert [said.split(",")[0] for said in beside] == ["  against random weights", "  against raw pixels"]


@pytest.mark.parametrize("command", ["pretrain", "resume"])
def test_a_finished_run_is_left_alone(capsys: pytest.CaptureFixture[str], tiny_run: Path, command: str) -> None:
    """Exit code 0, its figures once more, and nothing changed."""
    before = {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()}
    again = ["pretrain", "quick", "--data", "digits", "--out", str(tiny_run), *SMALL, *CPU]
    assert main([*(again if command == "pretrain" else ["resume", str(tiny_run)]), "--json"]) == 0
    result = last_line(capsys)
    assert result["already_done"] is True
    assert result["step"] == 2
    assert result["loss"] > 0
    assert {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()} == before


def test_a_run_of_another_config_is_not_touched(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    """The message names the first flag that differs."""
    arguments = ["pretrain", "quick", "--data", "digits", "--out", str(tiny_run), *SMALL, *CPU, "--temperature", "0.3"]
    check_refused(capsys, arguments, "--temperature", "0.1", "0.3")


@pytest.mark.filterwarnings("default")
def test_unlabelled_images_a_warning_and_json(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    """A run of one step on a flat folder: the warning is one line, standard output ends with one object."""
    run = ["--out", "run", "--max-steps", "1", "--batch-size", "16", "--queue-size", "80", "--image-size", "16"]
    run += ["--dictionary", "queue", "--arch", "resnet10-w4"]
    assert main(["pretrain", "quick", "--data", "flat", *run, *CPU, "--json"]) == 0
    out, err = capsys.readouterr()
    warned = [line for line in err.splitlines() if "warning" in line.lower()]
    assert len(warned) == 1
    assert warned[0].startswith("moco: warning: the queue holds K = 80 keys of only 40 images")
    assert "--queue-size" in warned[0]
    result = json.loads(out.splitlines()[-1])
    assert {"alignment", "uniformity", "loss"} <= result.keys()
    assert "knn_top1" not in result
    assert "the images have no labels (class folders would give them): no kNN accuracy. Instead the monitor" in err


# --- exit codes -----------------------------------------------------------------------------------------------------


def command_that(monkeypatch: pytest.MonkeyPatch, outcome: Exception | Warning | dict[str, Any]) -> None:
    """Make every command line give or raise this."""

    def function(config: ResumeConfig) -> dict[str, Any]:
        if isinstance(outcome, Warning):
            warnings.warn(outcome, stacklevel=1)
            return {}
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(cli, "parse", lambda arguments: (ResumeConfig(Path("run")), function))


@pytest.mark.parametrize(("outcome", "told"), [({"step": 7}, " after step 7,"), ({}, ",")])
def test_a_command_that_was_stopped_gives_python_no_figures(
    monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any], told: str
) -> None:
    """What follows in a script would take them for those of a finished run: an exception says how to go on."""
    command_that(monkeypatch, {**outcome, "exit_code": 75})
    with pytest.raises(moco.StoppedError, match=f"^resume run: stopped by a signal{told} and saved: the same call"):
        moco.run("resume", "run", workers=0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process for SIGTERM")
def test_a_script_ends_where_its_training_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGTERM before the first step, which is honoured after it; the same call then trains to the end."""
    call: dict[str, Any] = {
        "data": "digits", "out": tmp_path / "run", "arch": "resnet10-w4", "image_size": 12, "batch_size": 16,
        "queue_size": 32, "max_steps": 2, "knn_every": 0, "device": "cpu", "threads": 1,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("moco.pretraining.loop.keep_freed_memory", lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError, match="pretrain quick: stopped by a signal"):
            moco.run("pretrain", "quick", **call)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "stopped"
    assert moco.run("pretrain", "quick", **call)["step"] == 2


def test_an_ascii_terminal_shows_any_name() -> None:
    """Of what it cannot show it gets the code."""
    program = (
        "import moco.cli as cli; cli.parse = lambda _: 1 / 0\ntry:\n    cli.main([])\n"
        "except ZeroDivisionError:\n    print('caf\\u00e9')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b"caf\\xe9\n"


def test_a_library_s_thread_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a traceback: TensorBoard writes in a thread of its own, whatever happens to the disk."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    assert main(["no-such-command"]) == 2

    def fail() -> None:
        raise OSError(28, "No space left on device", "events")

    thread = threading.Thread(target=fail, name="writer")
    thread.start()
    thread.join()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "moco: warning: writer ended: [Errno 28] No space left on device: 'events'"


FORMS = (
    "--{flag} ~/x", "--{flag}=~/x", "--{flag} timm:resnet18@~/x", "--{flag}=timm:resnet18@~/x",
    "--{flag} stem=cifar,part=q@~/x", "--{flag}=stem=cifar@~/x", "--{flag} every=5@~/x",
)  # fmt: skip
"""How a shell leaves a ~ in an argument: in quotes, behind = and behind @."""


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "--weights", "random", "--data", "LIST", "--out", "x.npz"],
        ["check", "--data", "LIST"], ["knn", "--weights", "W", "--data", "D", "--workers", "9" * 3000], ["x" * 3000],
        ["pretrain", "x" * 3000], ["pretrain", "quick", "--data", "D", "--out", "R", "--augment", "x" * 3000],
        ["check", "--data", "D", "x" * 3000], ["check", "--data", "D", "--" + "x" * 3000],
        ["check", "--data", "D", "--no-data", "x" * 3000, "--workers", "y" * 3000],
    ],
)  # fmt: skip
def test_no_error_repeats_a_long_value(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of text that is taken for a list of paths, a paste in place of a number: both ends are told."""
    monkeypatch.chdir(tmp_path)
    Path("LIST").write_text("These are words of a page, and no paths, however long they may be. " * 40 + "\n")
    assert main(words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert len(said) < 400


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_page_that_an_installed_package_lacks(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The pages of docs/ come with the repository only."""
    first = {"pretrain": ["quick"], "transfer": ["voc-c4"]}.get(command, [])
    for words in (first, ["auto"] if command == "pretrain" else first):
        with pytest.raises(SystemExit):
            main([command, *words, "--help-all"])
    assert "docs/" not in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_is_found_in_every_path(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever command and flag: what is read is the path below the user's home folder."""
    seen: list[str] = []
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(cli, "_flags", lambda kind, arguments, *_, **__: seen.extend(arguments))
    monkeypatch.setattr(cli, "_runner", lambda name: None)
    first = {"pretrain": ["v2"], "transfer": ["voc-c4"]}.get(command, [])
    fields = dataclasses.fields(COMMANDS[command])
    paths = [flag(field.name)[2:] for field in fields if re.search(r"\bPath\b|\bstr\b", str(field.type))]
    assert paths
    words = [word for name in paths for form in FORMS for word in form.format(flag=name).split()]
    cli.parse([command, *first, *words, "~", "~/y", "a~/b", "~other/c"])
    assert seen == [*(word.replace("~", "/home/me") for word in words), "/home/me", "/home/me/y", "a~/b", "~other/c"]


@pytest.mark.parametrize(
    "command", [name for name, kind in COMMANDS.items() if hasattr(kind, "exclude")] + ["transfer"]
)
def test_every_command_of_images_takes_their_largest_number_of_pixels(command: str) -> None:
    """With one default, the environment's."""
    assert COMMANDS[command].most_pixels is None


def log_figures(run: Path) -> None:
    """Log as a training does, until something fails."""
    with RunLog(run, 1000) as log:
        for step in range(1000):
            log.metrics(step, {"lr": 1.0})
            time.sleep(0.01)


def test_a_full_disk_under_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread ends in one line, and the run at its next figures, by an error with the path."""

    def full(writer: object, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    assert main(["no-such-command"]) == 2
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(OSError, match=r"cannot write \(No space left on device\)") as failed:
        log_figures(tmp_path)
    assert failed.value.filename == str(tmp_path / "events.out.tfevents")
    said = capsys.readouterr().err.splitlines()[1:]
    assert said == ["moco: warning: a thread of tensorboard ended: [Errno 28] No space left on device"]


@pytest.mark.parametrize(("recipe", "flag"), [("continued", "--init-weights"), ("taught", "--teacher")])
def test_a_recipe_asks_for_its_weights(capsys: pytest.CaptureFixture[str], recipe: str, flag: str) -> None:
    """By their flag, not by a value of the recipe that nobody gave."""
    assert main(["pretrain", recipe, "--data", "digits", "--out", "run"]) == 2
    assert f"needs weights: give {flag} W" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ({}, 0),
        ({"exit_code": 75}, 75),
        (BadInputError("so"), 2),
        (DivergedError("so"), 3),
        (OSError("so"), 1),
        (VoidError("so"), 1),
    ],
    ids=str,
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: Exception | dict[str, Any],
    code: int,
) -> None:
    """0 done, 1 other failure, 2 bad input, 3 diverged, 75 saved after a signal."""
    command_that(monkeypatch, outcome)
    assert main([]) == code
    assert capsys.readouterr().err == ("moco: error: so\n" if isinstance(outcome, Exception) else "")


@pytest.mark.parametrize(
    "outcome",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 67 bytes\nand so on"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_too_little_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: Exception
) -> None:
    """Of numpy, of torch, of a GPU: no traceback."""
    command_that(monkeypatch, outcome)
    assert main([]) == 1
    err = capsys.readouterr().err
    assert err.startswith("moco: error: out of memory")
    assert err.count("\n") == 1


def test_ctrl_c_is_one_line_whatever_a_library_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled code may replace it by an error of its own, such as one of a file that is fine."""

    def read(_: KnnConfig) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise BadInputError("w: not a valid safetensors file") from None

    monkeypatch.setattr(cli, "parse", lambda _: (KnnConfig("W", "D"), read))
    assert main([]) == 130
    assert capsys.readouterr().err == "moco: error: interrupted\n"


def test_what_cannot_be_compiled_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a compiler, or a folder for what it makes, torch prints a thousand lines."""
    command_that(monkeypatch, TorchDynamoException("PermissionError: '/x'\n\nSet TORCHDYNAMO_VERBOSE=1\nand so on"))
    assert main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("moco: error: the encoders cannot be compiled here (PermissionError: '/x'): leave --compile")
    assert said.count("\n") == 1


def test_the_compiler_s_own_words_are_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What torch says first is only that there was an error; the reason stands below the command line."""
    output = "In file included from /x.cpp:2:\n/x.h:16:10: fatal error: Python.h: Permission denied\n   16 | #include"
    torchs = f"CppCompileError: C++ compile error\n\nCommand:\ng++ /x.cpp -o /x.so\n\nOutput:\n{output}\n"
    command_that(monkeypatch, TorchDynamoException(torchs))
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "(CppCompileError: C++ compile error: /x.h:16:10: fatal error: Python.h: Permission denied): leave" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("received 0 items of ancdata")], ids=str
)
def test_too_many_open_files_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether this process cannot open a file or cannot receive one from a loading process: what to raise is said."""
    command_that(monkeypatch, error)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert said == f"moco: error: too many open files ({error}): raise the limit (ulimit -n), or give fewer --workers\n"


def test_json_has_no_number_that_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the run folder there is nothing instead; other parsers would refuse the whole."""

    def function(config: ResumeConfig) -> dict[str, Any]:
        print("for people")
        return {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}}

    monkeypatch.setattr(cli, "parse", lambda arguments: (ResumeConfig(Path("run"), json=True), function))
    assert main([]) == 0
    assert tuple(capsys.readouterr()) == ('{"a": null, "b": [null, 1.5], "c": {"d": null}}\n', "for people\n")


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with its traceback, to be reported."""
    command_that(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main([])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("text", ["one line", "two\nlines"])
def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Without file, line number and source."""
    command_that(monkeypatch, UserWarning(text))
    assert main([]) == 0
    assert capsys.readouterr().err == f"moco: warning: {text.replace(chr(10), ' ')}\n"


def test_the_module_is_a_program(tmp_path: Path) -> None:
    """As torchrun calls it: exit code and one line, from a process of its own."""
    arguments = [sys.executable, "-m", "moco", "knn", "--weights", "w", "--data", "digits", "--knn-k", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("moco: error: --knn-k ")
    assert done.stderr.count("\n") == 1


def test_commands_from_python(tmp_path: Path) -> None:
    """The same parser: flags with underscores, several values, switches; bad input is an exception."""
    out = tmp_path / "run"
    small = {
        "arch": "resnet10-w4",
        "image_size": 16,
        "batch_size": 32,
        "knn_every": 0,
        "threads": 1,
        "json": True,
        "recompute": False,
    }
    result = moco.run("pretrain", "quick", data="digits", out=out, max_steps=2, dictionary="in-batch", **small)
    assert math.isfinite(result["loss"])
    found = moco.run("linear", weights=out, data="digits", penalties=[0.1, 1e-2], views=1, baseline=False, threads=1)
    assert set(found) >= {"top1", "penalty"}
    assert found["penalty"] in (0.1, 0.01)
    found = moco.run("knn", weights=out, data="digits", baseline=[out, out / "encoder.safetensors"], threads=1)
    assert list(found["baselines"]) == ["random", "pixels", str(out), str(out / "encoder.safetensors")]
    with pytest.raises(moco.BadInputError, match="is not a command"):
        moco.run("learn")
    with pytest.raises(moco.BadInputError, match="--epoch"):
        moco.run("linear", weights=out, data="digits", epoch=2)
