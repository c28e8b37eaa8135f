"""The evaluations' flags mean the same in every command."""

import typing
from pathlib import Path
from typing import Any

import pytest

from moco.cli import main
from moco.evaluation.config import EmbedConfig, EvaluationConfig, FinetuneConfig, LinearConfig, LowshotConfig
from moco.runtime.configfile import from_json, to_json

KINDS = typing.get_args(EvaluationConfig)
SHARED = (
    "weights", "like", "arch", "stem", "image_size", "precision", "device", "workers", "threads", "json",
)  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_flag_is_the_same_everywhere(name: str) -> None:
    """Same type, with its range and help text, and same default."""
    fields = [kind.__dataclass_fields__[name] for kind in KINDS]
    assert len({str(field.type) for field in fields}) == 1
    assert len({str(field.default) for field in fields}) == 1


def test_the_papers_protocol_has_the_papers_settings() -> None:
    """By default: lr 30, 100 epochs in batches of 256 (v1, 4.1)."""
    config = LinearConfig("run", "digits")
    assert (config.lr, config.batch_size, config.epochs) == (30, 256, 100)


@pytest.mark.parametrize(
    ("command", "flag", "instead"),
    [
        ("linear", "--lrs", "--penalties"),
        ("lowshot", "--lrs", "--penalties"),
        ("lowshot", "--epochs", "--finetune-steps"),
    ],
)
@pytest.mark.parametrize("given", [["{}", "3"], ["{}=3"]])
def test_a_flag_that_is_gone_says_what_to_use(
    capsys: pytest.CaptureFixture[str], command: str, flag: str, instead: str, given: list[str]
) -> None:
    """Exit code 2 and one line."""
    words = [word.format(flag) for word in given]
    assert main([command, "--weights", "run", "--data", "digits", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{flag} is gone" in said
    assert instead in said


@pytest.mark.parametrize("command", ["linear", "lowshot"])
def test_an_empty_list_of_penalties(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Before anything is read."""
    assert main([command, "--weights", "gone", "--data", "digits", "--penalties"]) == 2
    assert "--penalties is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        LinearConfig("run", "digits", penalties=(0.5, 1e-6)),
        LowshotConfig("run", "digits", labels="10%"),
        FinetuneConfig("random", "digits", like=Path("run")),
        EmbedConfig("run", "digits", Path("f.npz"), split="test"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_json_gives_back_the_config(config: Any) -> None:
    """As it is kept beside a result."""
    assert from_json(type(config), to_json(config), Path("x.json")) == config
