"""Evaluations on two processes: the figures of one, printed and written once.

The processes stay together over all commands: a group that an evaluation did not begin is not ended by it.
"""

import functools
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.cli import main
from moco.data.loader import ViewBatches
from moco.runtime import distributed
from tests.faults.processes import ended_well, start_program
from tests.slow import slow

EXACT = ("bank", "queries", "test", "train", "images", "width", "steps", "protocol")


def evaluate(run: Path, out: Path, names: tuple[str, ...]) -> None:
    """What each process does."""
    distributed.join_processes("cpu")
    run_batches = ViewBatches.run

    def and_a_signal(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*arguments)):
            if number == 1 and distributed.rank() == distributed.world_size() - 1:  # to one process only
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    common = ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--weights", str(run), "--data", "digits"]
    commands = {
        "embed": ["embed", "--out", f"{out}/f.npz", "--split", "test"],
        "knn": ["knn", "--no-baseline"],
        "linear-fast": ["linear", "--penalties", "0.1", "0.01", "--views", "1", "--no-baseline"],
        "linear-paper": ["linear", "--protocol", "paper", "--epochs", "1", "--lr", "0.3", "--no-baseline"],
        "finetune": ["finetune", "--max-steps", "3", "--batch-size", "32"],
    }
    for command in map(commands.__getitem__, names):
        if "paper" in command or "finetune" in command:  # stopped, and gone on with
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ViewBatches, "run", and_a_signal)
                assert main([*command, *common, "--json"]) == 75, command
        assert main([*command, *common, "--json"]) == 0, command
    distributed.leave_processes()


def results(
    tiny_run: Path, folder: Path, ranks: int, names: tuple[str, ...]
) -> tuple[Path, list[dict[str, Any]], list[str]]:
    """A run that was evaluated by some processes, the JSON objects, and the lines for people."""
    run = Path(shutil.copytree(tiny_run, folder / "run"))
    training = ended_well(start_program(functools.partial(evaluate, run, folder, names), folder, ranks=ranks))
    said = [line for rank in range(ranks) for line in training.text(rank).splitlines()]
    objects = [json.loads(line) for line in said if line.startswith("{")]
    return run, objects, [line for line in said if "top-1" in line or "features of 360 images" in line]


QUICK = ("embed", "knn", "linear-paper")
"""Encoding, and a training that is stopped and gone on with."""


@pytest.mark.parametrize("names", [QUICK, slow(("embed", "knn", "linear-fast", "linear-paper", "finetune"))])
def test_two_processes_tell_what_one_tells(tiny_run: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Features within 1e-5, accuracies of 360 images within 1 point (3 images), each file and line once."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    alone = results(tiny_run, folders[0], 1, names)
    both = results(tiny_run, folders[1], 2, names)
    assert len(alone[1]) == len(both[1]) == len(names)
    assert len(alone[2]) == len(both[2]) >= len(names)
    arrays = [np.load(folder / "f.npz", allow_pickle=False) for folder in folders]
    assert np.allclose(arrays[0]["features"], arrays[1]["features"], atol=1e-5)
    for name in ("labels", "paths", "classes"):
        assert np.array_equal(arrays[0][name], arrays[1][name])
    for name, one, two in zip(names, alone[1], both[1], strict=True):
        if name == "finetune":  # it has the ranks' own batch statistics
            continue
        assert {name: one[name] for name in EXACT if name in one} == {name: two[name] for name in EXACT if name in two}
        if "top1" in one:
            assert one["top1"] == pytest.approx(two["top1"], abs=1)
    files = {f"{name}.json" for name in names if name != "embed"}
    for run in (alone[0], both[0]):
        assert {path.name for path in (run / "evaluations").iterdir()} == files
