"""Which flags are named where a step needs more memory than there is, and how such a run ends."""

import dataclasses
import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moco import cli
from moco.data.catalog import load
from moco.data.loader import Batch
from moco.errors import NoMemoryError
from moco.pretraining import timing
from moco.pretraining.limits import advise_less_memory
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import resolve_config
from moco.runtime.shortage import describe_shortage
from tests.pretraining.test_loop import small

SAID = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB"


@dataclasses.dataclass(frozen=True)
class Short:
    """Batches of which the first needs more memory than there is."""

    steps_per_epoch: int = 5

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Raise what torch raises."""
        yield from ()
        raise torch.OutOfMemoryError(SAID)


@pytest.mark.parametrize(("values", "ranks", "named", "unnamed"), [
    ({}, 1, ["--accumulate 2", "--recompute", "--precision bf16 (now fp32)", "--batch-size (now 32)"], []),
    ({"accumulate": 4}, 1, [], ["--accumulate"]),
    ({"accumulate": 2}, 1, ["--accumulate 4"], []),
    ({"accumulate": 2}, 2, [], ["--accumulate"]),
    ({"dictionary": "in-batch"}, 1, ["own negatives"], []),
    ({"recompute": True, "precision": "bf16"}, 1, [], ["--recompute", "--precision"]),
    ({"arch": "squeezenet1_1", "stem": "imagenet", "image_size": 32}, 1, [], ["--recompute"]),
    ({"arch": "squeezenet1_1", "stem": "imagenet", "image_size": 32, "precision": "bf16", "batch_size": 8,
      "accumulate": 4}, 1, ["--view-size", "--arch"], ["--batch-size"]),
])  # fmt: skip
def test_what_helps_is_named(
    tmp_path: Path, values: dict[str, Any], ranks: int, named: list[str], unnamed: list[str]
) -> None:
    """Only what is not done yet, and parts only where they hold whole BN groups."""
    config = resolve_config(small(tmp_path, **values), load("digits")["train"])
    said = advise_less_memory(config, ranks)
    assert all(word in said for word in named), said
    assert not any(word in said for word in unnamed), said


def test_the_run_ends_in_words(tmp_path: Path) -> None:
    """Its status is failed, with exit code 1; the same command goes on from the last checkpoint."""
    with pytest.raises(NoMemoryError, match=r"out of memory: give --accumulate 2, --recompute .* --batch-size"):
        pretrain(small(tmp_path), load("digits")["train"], batches=Short())
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1)


def test_the_command_line_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the advice as it is."""

    def short(config: object) -> dict[str, Any]:
        raise NoMemoryError("out of memory: give --accumulate 2")

    monkeypatch.setattr(cli, "parse", lambda arguments: (SimpleNamespace(json=False), short))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which main replaces, as it does the other
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    assert cli.main(["pretrain"]) == 1
    assert capsys.readouterr().err == "moco: error: out of memory: give --accumulate 2\n"


def test_auto_takes_a_network_that_does_not_fit_for_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice is for a person; what tries networks out goes on to the next."""

    def short(*_: object, **__: object) -> dict[str, Any]:
        raise NoMemoryError("out of memory: give less")

    monkeypatch.setattr(timing, "pretrain", short)
    assert timing.time_step(small(tmp_path), load("digits")["train"], 0.1) is None


def test_a_gpu_says_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was held, what was asked for, what there is, and what others hold of it."""
    gib = 2**30
    cuda = {
        "is_available": lambda: True, "memory_allocated": lambda: 70 * gib, "memory_reserved": lambda: 72 * gib,
        "mem_get_info": lambda: (gib, 79 * gib),
    }  # fmt: skip
    for name, answer in cuda.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    expected = (
        "out of memory on the GPU: the step held 70.0 GiB and asked for 2.5 more, and the GPU has 79.0, of which "
        "others hold 6.0: give less"
    )
    assert describe_shortage(torch.OutOfMemoryError(SAID), "give less") == expected
