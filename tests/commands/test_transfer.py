"""`moco transfer` as a user meets it: runs, stops, goes on, fails."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.cli import main
from moco.commands import transfer as command
from moco.commands.resume import run as resume
from moco.commands.transfer import run as transfer
from moco.core.encoder import EncoderPlan, encoder_tensors
from moco.data.forms import Form
from moco.errors import BadInputError, DivergedError
from moco.interop.checkpoints import random_weights
from moco.pretraining.config import ResumeConfig
from moco.runtime.checkpoint import checkpoint_path, load_tensors, save_tensors
from moco.runtime.folder import read_status
from moco.runtime.run import Run
from moco.transfer import evaluation, evaluator
from moco.transfer.config import TransferConfig
from moco.transfer.loop import fine_tune
from moco.transfer.recipes import TASKS, transfer_config
from tests.slow import slow
from tests.transfer.scenes import write

SMALL: dict[str, Any] = {
    "weights": "random", "arch": "resnet10-w4", "max_steps": 4, "batch_size": 2, "train_sizes": (48, 64),
    "test_size": 64, "longest_side": 96, "crop_size": 48, "head_channels": 8, "regions": 8, "precise_bn": 2,
    "threads": 1, "workers": 0, "device": "cpu", "log_every": 1, "shown_images": 1,
}  # fmt: skip
USERS = "resnet18-w4"
"""The network of ten layers is known to the tests' own processes only."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found in images is kept elsewhere than a user keeps it."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "kept"))


def test_weights_of_channels_are_refused(tmp_path: Path) -> None:
    """Tasks read RGB: in one line, before anything is written."""
    form = Form(4, "uint16", (1.0,) * 4, (2.0,) * 4)
    weights = random_weights(EncoderPlan("resnet10-w4", channels=4), 0, form.mean, form.std, form=form)
    save_tensors(tmp_path / "e.safetensors", encoder_tensors(weights.encoder), weights.metadata)
    with pytest.raises(BadInputError, match="take 4 channels of uint16, and moco transfer reads all images as bytes"):
        transfer(config(tmp_path, weights=str(tmp_path / "e.safetensors")))
    assert not (tmp_path / "run").exists()


def config(folder: Path, task: str = "voc-dc5", out: str = "run", **more: Any) -> TransferConfig:
    """A run of four steps on four scenes."""
    data = folder / TASKS[task].layout
    if not data.is_dir():
        write(TASKS[task].layout, data, 4, (96, 64))
    return transfer_config(task, **{**SMALL, "data": str(data), "out": folder / out, **more})


def lines(run: Path, holding: str = "loss") -> list[dict[str, Any]]:
    """The figures that a run logged, its losses alone or all of them."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = [one for one in found if holding in one and "event" not in one]
    measured = ("time", "images_per_second", "waiting_for_data")
    return [{k: v for k, v in one.items() if k not in measured} for one in own]


def interrupted(own: TransferConfig, last: int) -> TransferConfig:
    """A run that is asked to stop after step `last`, and does after the next."""
    once = Run.advance

    def interrupt(self: Run, step: int) -> None:
        once(self, step)
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "advance", interrupt)
        assert transfer(own)["exit_code"] == 75
    return own


@pytest.mark.filterwarnings("ignore:.*no pixel of")  # the scenes have few of Cityscapes' classes
@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_from_the_data_to_its_figures(tmp_path: Path, task: str) -> None:
    """The result holds the task's figures, and so do the files that a run leaves."""
    own = config(tmp_path, task, max_steps=1)
    before = torch.get_rng_state()
    result = transfer(own)
    assert torch.equal(torch.get_rng_state(), before)  # what others draw is left alone
    assert set(TASKS[task].figures) <= result.keys()
    assert all(0 <= result[name] <= 100 for name in TASKS[task].figures)
    content = json.loads((own.out / "evaluations" / "transfer.json").read_text())
    assert content["task"] == task
    assert set(content["pictures"][0]) == {"truth", "found"}
    assert json.loads((own.out / "status.json").read_text())["state"] == "done"
    assert transfer(own)["already_done"]


@pytest.mark.parametrize(("task", "last"), [("coco-fpn", 1), slow("voc-semantic", 1), ("voc-semantic", 3)])
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, last: int
) -> None:
    """As the loop stops it after a signal, also after the last step, and `moco resume` goes on.

    Same losses, same tensors; the same evaluations, of the same precise statistics.
    """
    evaluated = list[dict[str, torch.Tensor]]()
    once = evaluation.evaluate_model

    def evaluate(model: torch.nn.Module, *rest: Any) -> dict[str, float]:
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return once(model, *rest)

    monkeypatch.setattr(evaluator, "evaluate_model", evaluate)
    whole = config(tmp_path, task, "whole", evaluate_every=2, checkpoint_every=2)
    transfer(whole)
    parts = interrupted(config(tmp_path, task, "parts", evaluate_every=2), last)
    assert json.loads((parts.out / "status.json").read_text())["state"] == "stopped"
    finish = evaluator.Evaluator.finish

    def in_another_state(self: evaluator.Evaluator, step: int) -> dict[str, Any]:
        torch.manual_seed(123)  # a checkpoint holds the first process's random state, and no GPU's
        return finish(self, step)

    monkeypatch.setattr(evaluator.Evaluator, "finish", in_another_state)
    resume(ResumeConfig(parts.out))
    assert len(evaluated) == 4
    for before, after in zip(evaluated[:2], evaluated[2:], strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert lines(whole.out, "step") == lines(parts.out, "step")
    tensors = [load_tensors(checkpoint_path(one.out, 4))[0] for one in (whole, parts)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_trials_give_mean_and_deviation_and_go_on(tmp_path: Path) -> None:
    """Each is the run of its seed; the folder of all holds their mean and the deviation (n - 1)."""
    own = config(tmp_path, "voc-semantic", trials=2, seed=5)
    result = transfer(own)
    alone = [transfer(config(tmp_path, "voc-semantic", f"alone-{seed}", seed=seed))["mIoU"] for seed in (5, 6)]
    assert result["trials"]["mIoU"] == alone
    assert result["mIoU"] == pytest.approx(sum(alone) / 2)
    assert result["deviation"]["mIoU"] == pytest.approx(abs(alone[0] - alone[1]) / 2**0.5)
    assert resume(ResumeConfig(own.out))["already_done"]


def test_more_trials_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are done stay; a run without trials, or one of trials, is not taken for the other."""
    own = config(tmp_path, "voc-semantic", trials=2)
    two = transfer(own)["trials"]["mIoU"]
    done: list[int] = []

    def counted(config: TransferConfig, *rest: Any) -> dict[str, Any]:
        done.append(config.seed)
        return fine_tune(config, *rest)

    monkeypatch.setattr(command, "fine_tune", counted)
    three = transfer(replace(own, trials=3))["trials"]["mIoU"]
    assert (three[:2], done) == (two, [2])
    assert len(resume(ResumeConfig(own.out))["trials"]["mIoU"]) == 3
    assert transfer(own)["trials"]["mIoU"] == two
    assert done == [2]
    with pytest.raises(BadInputError, match="with --trials 2, and now it is 1"):
        transfer(replace(own, trials=1))
    alone = config(tmp_path, "voc-semantic", "alone")
    transfer(alone)
    with pytest.raises(BadInputError, match="with --trials 1, and now it is 2"):
        transfer(replace(alone, trials=2))


def test_a_signal_while_a_trial_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation ends at once, the next trial does not begin; the same command goes on with it."""
    own = config(tmp_path, "voc-semantic", trials=2)
    once = evaluator.Evaluator.finish

    def finish(self: evaluator.Evaluator, step: int) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return once(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Evaluator, "finish", finish)
        assert transfer(own)["exit_code"] == 75
    states = [json.loads((run / "status.json").read_text())["state"] for run in (own.out, own.out / "trial-0")]
    assert states == ["stopped", "stopped"]
    assert not (own.out / "trial-1").exists()
    assert len(transfer(own)["trials"]["mIoU"]) == 2


def test_a_trial_that_diverges_ends_them_all(tmp_path: Path) -> None:
    """Said in the status of their folder too, from which it does not begin again."""
    own = config(tmp_path, "voc-semantic", trials=2, lr=1e30, max_steps=40, warmup_steps=0)
    with pytest.raises(DivergedError, match="trial-0: loss"):
        transfer(own)
    status = json.loads((own.out / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("diverged", 3)
    with pytest.raises(DivergedError, match=f"run diverged at step {status['step']}"):
        transfer(own)


@pytest.mark.parametrize(("error", "state"), [slow(OSError(28, "full"), "failed"), (KeyboardInterrupt(), "killed")])
def test_trials_that_end_by_an_error_are_not_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str
) -> None:
    """Nor are those that were killed: while they go on, their folder is held as a run's is."""
    own = config(tmp_path, "voc-semantic", trials=2)

    def fail(run: Run, step: int) -> None:
        assert read_status(own.out)["state"] == "running"
        with pytest.raises(BadInputError, match=f"process {os.getpid()} on .* is writing it"):
            transfer(own)
        raise error

    monkeypatch.setattr(Run, "advance", fail)
    with pytest.raises(type(error)):
        transfer(own)
    assert read_status(own.out)["state"] == state
    monkeypatch.undo()
    assert len(transfer(own)["trials"]["mIoU"]) == 2


@pytest.mark.parametrize("trials", [slow(1), 2])
def test_other_files_than_before(tmp_path: Path, trials: int) -> None:
    """A run, or the next trial of it, does not go on with another image or annotation; once accepted, it does."""
    own = interrupted(config(tmp_path, "voc-semantic", trials=trials), 1)
    changed = next(Path(own.data).glob("SegmentationClass/*.png"))
    changed.write_bytes(changed.read_bytes() + b"more")
    for _ in range(2):
        with pytest.raises(BadInputError, match=rf"8 files then, 8 now: 1 changed.*{changed.name}.*--accept-changed"):
            resume(ResumeConfig(own.out))
    assert resume(ResumeConfig(own.out, accept_changed_data=True))["step"] == 4
    run = own.out if trials == 1 else own.out / "trial-0"
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [changed.name in one["what"] for one in events if one.get("event") == "data_changed"] == [True]


@pytest.mark.parametrize("trials", [slow(1), 2])
def test_a_run_goes_on_where_its_images_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    """The place of its data is kept as an absolute one; `resume --data` takes another that holds the same files."""
    monkeypatch.chdir(tmp_path)
    first = config(tmp_path, "voc-semantic", trials=trials)
    own = interrupted(replace(first, data=Path(first.data).name), 1)

    def stored() -> str:
        return str(json.loads((own.out / "config.json").read_text())["data"])

    assert stored() == first.data
    new = Path(first.data).rename(tmp_path / "new")
    with pytest.raises(BadInputError, match="give --data"):
        resume(ResumeConfig(own.out))
    assert resume(ResumeConfig(own.out, data="new"))["step"] == 4
    assert stored() == str(new)


def test_images_of_16_bits_are_scaled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By one factor for the whole run, which is kept with it and holds when the run goes on."""
    first = config(tmp_path, "voc-semantic")
    for path in Path(first.data).glob("JPEGImages/*.jpg"):
        with PillowImage.open(path) as image:
            grey = np.asarray(image.convert("L")).astype(np.uint16) * 16
        PillowImage.fromarray(grey).save(path, "PNG")
    own = interrupted(first, 1)
    assert "4095 becomes white" in capfd.readouterr().err
    assert json.loads((own.out / "config.json").read_text())["white_level"] == 4095
    assert transfer(first)["step"] == 4
    with pytest.raises(BadInputError, match="--white-level 4095, and now it is 65535"):
        transfer(replace(first, white_level=65535))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_of_too_many_pixels_are_named(tmp_path: Path) -> None:
    """Before the first step, with the flag that lets them in."""
    with pytest.raises(BadInputError, match=r"\.(jpg|png): more than 50 pixels: .*--most-pixels"):
        transfer(replace(config(tmp_path, "voc-semantic"), most_pixels=50))


@pytest.fixture
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of types: tyro marks what must be given by values of its own."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("as_for_users")
def test_bad_input_is_exit_code_2_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown task, a missing folder, a value out of range, another config in the folder."""
    write("voc", tmp_path / "voc", 4, (96, 64))
    common = ["--weights", "random", "--arch", "resnet10-w4", "--out", str(tmp_path / "run")]
    for arguments, message in (
        (["transfer", "voc-c5", *common, "--data", "x"], "did you mean voc-"),
        (["transfer", "voc-c4", *common, "--data", str(tmp_path / "nothing")], "no such folder"),
        (["transfer", "voc-c4", *common, "--data", str(tmp_path / "voc"), "--train-sizes", "9", "5"], "smaller one"),
        (["transfer", "voc-c4", *common, "--data", str(tmp_path / "voc"), "--regions", "0"], "--regions is 0"),
        (["transfer", "voc-c4", *common, "--data", str(tmp_path / "voc"), "--flip", "2"], "--flip is 2"),
        (["transfer", "voc-c4", *common, "--data", str(tmp_path / "voc"), "--anchor-ratios"], "--anchor-ratios is"),
        (["transfer", "compare", str(tmp_path)], "no finished run"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    transfer(config(tmp_path))
    with pytest.raises(ValueError, match="--lr"):
        transfer(config(tmp_path, lr=0.5))


@pytest.mark.usefixtures("as_for_users")
def test_a_run_that_diverges_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss is no number; what was saved before stays."""
    own = config(tmp_path, "voc-semantic")
    arguments = ["transfer", "voc-semantic", "--data", own.data, "--out", str(own.out), "--lr", "1e30"]
    for name in ("weights", "arch", "batch_size", "crop_size", "head_channels", "threads", "workers", "device"):
        arguments += [f"--{name.replace('_', '-')}", str({**SMALL, "arch": USERS}[name])]
    assert main([*arguments, "--max-steps", "40"]) == 3
    assert "smaller --lr" in capsys.readouterr().err
    assert json.loads((own.out / "status.json").read_text())["exit_code"] == 3


def test_evaluation_changes_nothing(tmp_path: Path) -> None:
    """A run that is evaluated after every step has the losses and tensors of one that is not."""
    plain, watched = config(tmp_path, out="plain"), config(tmp_path, out="watched", evaluate_every=1)
    transfer(plain)
    transfer(watched)
    assert lines(plain.out) == lines(watched.out)
    tensors = [load_tensors(checkpoint_path(one.out, 4))[0] for one in (plain, watched)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    """One of two is signalled; both stop after the same step, and a second start goes on as if nothing had been."""
    own = config(tmp_path, "voc-semantic", "whole")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    values = {
        **SMALL,
        "arch": USERS,
        "data": own.data,
        "max_steps": 5,
        "batch_size": 4,
        "test_images": 2,
        "evaluate_every": 3,
    }

    def run(module: str, out: Path) -> int:
        arguments = ["transfer", "voc-semantic", "--out", str(out)]
        for name, value in values.items():
            given = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{name.replace('_', '-')}", *map(str, given)]
        done = subprocess.run([*program, module, *arguments], capture_output=True, text=True, timeout=600)
        (tmp_path / "said").write_text(done.stdout + done.stderr)
        return done.returncode

    assert run("moco", own.out) == 0, (tmp_path / "said").read_text()
    parts = tmp_path / "parts"
    assert run("tests.transfer.stopped", parts) != 0
    status = json.loads((parts / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 75), (tmp_path / "said").read_text()
    assert checkpoint_path(parts, 3).is_file()
    assert run("moco", parts) == 0, (tmp_path / "said").read_text()
    assert lines(own.out, "step") == lines(parts, "step")
    tensors = [load_tensors(checkpoint_path(one, 5))[0] for one in (own.out, parts)]
    assert any(name.startswith("ranks.") for name in tensors[0])
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    """By torchrun and gloo; plain BN on each, and said so. The first process writes."""
    own = config(tmp_path, "coco-fpn")
    arguments = ["coco-fpn", "--data", own.data, "--out", str(own.out), "--precise-bn", "1", "--max-steps", "2"]
    for name in ("weights", "arch", "batch_size", "test_size", "longest_side", "head_channels", "regions"):
        arguments += [f"--{name.replace('_', '-')}", str({**SMALL, "arch": USERS}[name])]
    arguments += ["--train-sizes", "48", "64", "--threads", "1", "--workers", "0", "--device", "cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "moco"]
    done = subprocess.run([*command, "transfer", *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "batch normalisation in each of 2 processes by itself" in done.stdout
    content = json.loads((own.out / "evaluations" / "transfer.json").read_text())
    assert set(TASKS["coco-fpn"].figures) <= content.keys()
