"""The cases of the benchmark are configs of the loop."""

from pathlib import Path

from moco.bench.cases import TRAININGS, VIEWS
from moco.pretraining.config import PretrainConfig


def test_every_case_is_a_config() -> None:
    """Of the loop, with a queue."""
    for values in (*TRAININGS.values(), *VIEWS.values()):
        assert PretrainConfig(data="", out=Path(), **values).dictionary == "queue"
