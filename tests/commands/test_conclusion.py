"""How `moco pretrain auto` ends where an encoder from scratch can be joined with published weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moco.commands import join, knn
from moco.commands.conclusion import JOINED, conclude
from moco.errors import BadInputError
from moco.evaluation.config import KnnConfig
from moco.evaluation.session import read_kept_evaluation
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig

pytestmark = pytest.mark.usefixtures("few_digits")


@pytest.fixture
def end(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[dict[str, Any], str]]:
    """End a run from scratch that was compared with weights: its figures, and what is said."""
    run, other = tmp_path / "run", tmp_path / "other.safetensors"
    shutil.copytree(tiny_run, run)
    shutil.copy(tiny_run / "encoder.safetensors", other)

    def end(*, joined: bool = True, published: bool = True) -> tuple[dict[str, Any], str]:
        told = {"way": {"recipe": "quick"}, "weights": str(other), "labelled": True,
                "evaluation": {"seconds": 1.0, "random": False, "published": published, "joined": joined}}  # fmt: skip
        (run / "auto.json").write_text(json.dumps(told))
        result = conclude(PretrainConfig("digits", run, device="cpu", threads=1, precision="fp32"), {}, "digits")
        captured = capsys.readouterr()
        return result, captured.out + captured.err

    return end


def test_both_are_joined_and_compared_with_the_run_alone(end: Callable[..., Any], tmp_path: Path) -> None:
    """The line has the figures of `moco knn` of the file in the run folder; the same once more replaces the file."""
    for _ in range(2):
        result, said = end()
        joined = tmp_path / "run" / JOINED
        assert load_weights(str(joined)).encoder.plan.arch == "joined"
        alone, both = result["knn"], result["joined"]
        gain = both["baselines"][str(tmp_path / "run")]
        assert gain["top1"] == alone["top1"]
        assert both["top1"] - alone["top1"] == pytest.approx(gain["difference"], abs=0.002)  # each is rounded
        assert f"joined with {tmp_path / 'other.safetensors'} ({joined}), it reaches {both['top1']:.1f}%: " in said
        assert (f"moco linear --weights {joined} " in said) == (both["top1"] > alone["top1"])
        assert f"than alone: {gain['difference']:+.1f} points" in said
        other = both["baselines"][str(tmp_path / "other.safetensors")]
        assert (
            f"than {tmp_path / 'other.safetensors'} ({other['top1']:.1f}%): {other['difference']:+.1f} points" in said
        )
        assert "moco join --weights" not in said
    kept = read_kept_evaluation(KnnConfig(str(tmp_path / "run"), "digits"))
    assert kept is not None  # of the run, not of what it was joined into
    assert kept["top1"] == alone["top1"]


@pytest.mark.parametrize("flags", [{"joined": False}, {"published": False}])
def test_without_time_the_command_is_named(end: Callable[..., Any], tmp_path: Path, flags: dict[str, bool]) -> None:
    """Nothing is joined then, nor where the comparison with the weights was left out."""
    result, said = end(**flags)
    assert "joined" not in result
    assert f"moco join --weights {tmp_path / 'run'} {tmp_path / 'other.safetensors'} --data digits" in said
    assert not (tmp_path / "run" / JOINED).exists()


def test_a_failure_does_not_hide_what_was_reached(end: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says why nothing was joined; all else is said as without it."""

    def fail(*_: Any) -> None:
        raise BadInputError("no room on the disk")

    monkeypatch.setattr(join, "write_joined", fail)
    result, said = end()
    assert result["joined"] == {}
    assert "other.safetensors: no room on the disk\n" in said
    assert "auto: the encoder's kNN accuracy is " in said
    assert "moco join --weights" in said


def test_an_interruption_says_what_is_missing(
    end: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison is kept by then."""
    evaluate = knn.run

    def interrupt(config: KnnConfig) -> dict[str, Any]:
        if config.weights.endswith(JOINED):
            raise KeyboardInterrupt
        return evaluate(config)

    monkeypatch.setattr(knn, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        end()
    assert "the run is finished, but not joined with published weights: moco join does that" in capsys.readouterr().err
