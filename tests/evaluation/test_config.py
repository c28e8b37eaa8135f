"""The evaluations' flags mean the same in every command."""

import typing
from pathlib import Path
from typing import Any

import pytest

from moco.evaluation.config import RATES, EmbedConfig, EvaluationConfig, FinetuneConfig, LinearConfig, LowshotConfig
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


def test_the_papers_rate_is_among_the_rates() -> None:
    """30, and it is the default of the papers' protocol."""
    assert 30 in RATES
    config = LinearConfig("run", "digits")
    assert (config.lr, config.batch_size, config.epochs) == (30, 256, 100)


@pytest.mark.parametrize(
    "config",
    [
        LinearConfig("run", "digits", lrs=(0.5, 30.0)),
        LowshotConfig("run", "digits", labels="10%"),
        FinetuneConfig("random", "digits", like=Path("run")),
        EmbedConfig("run", "digits", Path("f.npz"), split="test"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_json_gives_back_the_config(config: Any) -> None:
    """As it is kept beside a result."""
    assert from_json(type(config), to_json(config), Path("x.json")) == config
