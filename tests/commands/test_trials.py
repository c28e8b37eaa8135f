"""Trials of ways: first steps of the very runs, of which one goes on bit for bit; what fails or is stopped is gone."""

import dataclasses
import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import timm
import torch
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file

from moco.cli import main
from moco.commands import pretrain, readiness, trials
from moco.errors import BadInputError, DivergedError
from moco.evaluation.comparison import vote_by_features
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain as train
from moco.pretraining.timing import StepTime
from moco.runtime.configfile import from_json, to_json
from moco.runtime.folder import read_status
from tests.slow import slow

SHORT = "timm:test_efficientnet"
NET = f"{SHORT}@net.safetensors"
COMMAND = [
    "pretrain", "auto", "--data", "photos", "--out", "run", "--minutes", "60", "--max-steps", "24",
    "--init-weights", NET, "--device", "cpu", "--threads", "1", "--precision", "fp32", "--workers", "0",
    "--knn-every", "8",
]  # fmt: skip


def is_small(config: PretrainConfig) -> bool:
    """Whether it is the published network or the narrowest of ours."""
    return config.arch is None or config.arch.startswith(("timm:", "resnet18-w16"))


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Forty photographs of two classes and a tiny published network, in the current folder; small nets are fast."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(readiness, "time_step", lambda config, *_: StepTime(0.05 if is_small(config) else 1e6, 0.1))
    monkeypatch.setattr(readiness, "_seconds", lambda _: 0.02)
    rng = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (40, 40, 3), dtype=np.uint8) + np.uint8(50 * (i % 2))
        PillowImage.fromarray(pixels).save(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.jpg")
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tried() -> dict[str, dict[str, Any]]:
    """What auto.json says of the trials, by the name of the way."""
    return {one["name"]: one for one in json.loads(Path("run/auto.json").read_text())["tried"]}


@pytest.mark.parametrize("goal", [pytest.param("accurate", marks=pytest.mark.slow), "small"])
def test_a_run_goes_on_from_its_trial_bit_for_bit(place: Path, capsys: pytest.CaptureFixture[str], goal: str) -> None:
    """Its encoder is that of a run of the same config that was never tried; the comparison is printed.

    Published weights that are trained on are judged as they are, and their run begins after the trials.
    """
    begun = [] if goal == "accurate" else [12]
    assert main([*COMMAND, "--for", goal]) == 0
    out, err = capsys.readouterr()
    others = {f"a small network taught by {NET}", f"{NET} adapted to small images"}
    ways = {"from scratch"} | ({f"continued training of {NET}"} if goal == "accurate" else others)
    assert set(tried()) == ways
    untrained = {name for name, one in tried().items() if not one["steps"]}
    assert untrained == ({f"continued training of {NET}"} if goal == "accurate" else set())
    assert {one["steps"] for name, one in tried().items() if name not in untrained} == {12}
    assert err.count("<- chosen") == 2
    assert ("auto: continuing the chosen run from step 12" in err) == bool(begun)
    assert (f"{'after 12 trial steps' if begun else 'before training'} it classifies") in out
    events = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in events if line.get("event") == "resume"] == begun
    path = Path("run/config.json")
    own = from_json(PretrainConfig, path.read_bytes(), path)
    assert (own.out, own.max_steps) == (Path("run"), 24)
    assert own.checkpoint_every != 12
    pretrain.run(dataclasses.replace(own, out=Path("straight")))
    found, expected = (load_file(Path(name, "encoder.safetensors")) for name in ("run", "straight"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert list((place / "temporary").iterdir()) == []
    assert main(["resume", "run"]) == 0


@pytest.mark.slow
def test_a_way_that_diverges_or_cannot_begin_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first has no image right, the second is said not to be tried; the others go on."""

    def diverge(config: PretrainConfig, *more: Any) -> Any:
        if config.teacher is None:
            raise DivergedError("nan")
        return train(config, *more)

    monkeypatch.setattr(trials, "pretrain", diverge)
    assert main([*COMMAND, "--for", "small"]) == 0
    assert tried()["from scratch"]["top1"] == 0
    assert main([*COMMAND, "--out", "second", "--for", "accurate", "--bn", "frozen"]) == 0  # is for given weights
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "not tried" in line)
    assert line.startswith("auto: not tried: from scratch: ")
    assert line.endswith("or --bn train")


@pytest.mark.slow
def test_weights_that_training_harms_are_judged_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their run ends with them, whatever the trial has reached (--keep best)."""
    monkeypatch.setattr(trials, "vote_by_features", lambda *more: torch.zeros_like(vote_by_features(*more)))
    assert main([*COMMAND, "--for", "accurate"]) == 0
    compared = {one["name"]: one["top1"] for one in json.loads(Path("run/auto.json").read_text())["compared"]}
    assert tried()[f"continued training of {NET}"]["top1"] == compared[NET] > 0
    assert json.loads(Path("run/config.json").read_text())["init_weights"] == NET


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGTERM])
def test_a_trial_can_be_interrupted(place: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Exit code 130, and nothing is left behind."""
    begin, asked = trials.FirstBatches.run, list[int]()

    def run(batches: trials.FirstBatches, *more: int) -> Any:
        for count, batch in enumerate(begin(batches, *more)):
            asked.append(count)
            if count == 3:
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(trials.FirstBatches, "run", run)
    assert main(COMMAND) == 130
    assert asked[-1] <= 4  # at once
    assert not Path("run").exists()
    assert list((place / "temporary").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_chosen_trial_can_be_interrupted_before_it_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """It is a run that was stopped: the same command goes on with it, and ends as auto does."""
    with monkeypatch.context() as patch:
        patch.setattr("moco.commands.pretrain.train_prepared", lambda *_: signal.raise_signal(number))
        assert main([*COMMAND, "--for", "small"]) == 130
    assert capsys.readouterr().err.endswith("moco: error: interrupted\n")
    assert read_status(Path("run"))["state"] == "stopped"
    assert tried()
    assert list((place / "temporary").iterdir()) == []
    assert main([*COMMAND, "--for", "small"]) == 0
    assert "auto: the encoder is run/encoder.safetensors. Next:" in capsys.readouterr().out


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_trial_that_cannot_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, error: BaseException
) -> None:
    """Leaves nothing behind: checkpoints without settings are no run, and would be in the next one's way."""
    trial, out = tmp_path / "trial", tmp_path / "run"
    (trial / "checkpoints").mkdir(parents=True)
    for name in ("encoder.safetensors", "metrics.jsonl", "checkpoints/1.safetensors", "checkpoints/2.safetensors"):
        (trial / name).write_text(name)
    config = PretrainConfig(data="photos", out=out)
    (trial / "config.json").write_text(to_json(config, "pretrain"))
    if before:
        out.mkdir()
        (out / "notes.txt").write_text("mine")

    copy = shutil.copyfile

    def fail(source: str, *more: Any, **how: Any) -> Any:
        if str(getattr(source, "path", source)).endswith("2.safetensors"):
            raise error
        return copy(source, *more, **how)

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises((BadInputError, KeyboardInterrupt), match=r"No space left on device|^$"):
        trials.take_over(trial, config)
    assert [path.name for path in out.rglob("*")] == ["notes.txt"] if before else not out.exists()
