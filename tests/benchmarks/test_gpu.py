"""The check of a GPU runs on a CPU too, with everything tiny: each part makes its rows, and none fails."""

import functools
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from benchmarks import gpu
from benchmarks.gpuchecks import steps
from benchmarks.gpuchecks.probe import count_kernels, watch_waits
from benchmarks.gpuchecks.rows import Row, Setting
from moco.core.batchnorm import GroupedBatchNorm
from tests.faults.processes import ended_well, start_program


def test_every_part_runs_without_a_gpu(tmp_path: Path) -> None:
    """What must be right is right; figures stand in lines of JSON, and in a table beside their predictions.

    In a process of its own, where annotations are not checked: tyro passes values of no type.
    """
    parts = tuple(gpu.PARTS)
    lines = ended_well(start_program(functools.partial(check, parts), tmp_path, ranks=1)).text().splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert {row["part"] for row in rows} == set(parts)
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for row in rows:
        found[row["part"]][row["measure"]] = row.get("found")
    assert [row for row in rows if row.get("passed") is False] == []
    assert found["repeat"]["stopped and gone on"] == "equal"
    assert found["step"]["8 groups"] > 0
    assert 0 <= found["command"]["0 workers: waited for data"] <= 100
    assert {"knn", "linear", "embed", "export", "transfer voc-dc5"} <= found["evaluations"].keys()
    table = [line.split("  ")[0] for line in lines if not line.startswith("{")]
    assert set(parts) <= set(table)
    assert lines[-1].endswith("checks passed")


def check(parts: tuple[str, ...]) -> None:
    """These parts, with everything tiny."""
    assert gpu.main(["--small", "--device", "cpu", "--only", ",".join(parts)]) == 0


def test_a_sound_gpu_rounds_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are taken for equal where another sum of the same numbers is the only difference."""
    quietly, configs = steps._quietly, list[Any]()

    def train(config: Any, images: Any, **how: Any) -> None:
        configs.append(config)
        with monkeypatch.context() as patch:
            if len(configs) > 1:
                patch.setattr(GroupedBatchNorm, "_by_kernel", lambda norm, kernel, x, size: norm._by_formula(x, size))
            quietly(config, images, **how)

    monkeypatch.setattr(steps, "_quietly", train)
    rows = list(steps.check_equality(Setting("cpu", True, tmp_path)))
    assert len(configs) == 2
    assert [row.passed for row in rows] == [True] * 3
    assert all(isinstance(row.found, float) and row.found > 0 for row in rows[1:])


def test_a_part_that_fails_says_why_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and the line at the end names what failed."""

    def fail(setting: object) -> Any:
        yield Row("first", 1.5, "ms", "2")
        raise ModuleNotFoundError("No module named 'tyro'")

    monkeypatch.setattr("benchmarks.gpuchecks.machine.describe", fail)
    monkeypatch.setattr("benchmarks.gpuchecks.normalization.check_groups", lambda setting: iter([Row("second", 1)]))
    assert gpu.main(["--small", "--device", "cpu", "--only", "machine,groups"]) == 1
    said = capsys.readouterr().out
    assert "ModuleNotFoundError: No module named 'tyro'" in said
    assert '"second"' in said
    assert said.splitlines()[-1] == "1 of 1 checks failed: machine: failed"


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs."""
    with pytest.raises(SystemExit):
        gpu.main(["--only", "steps"])
    assert "--only steps: expected some of machine, groups" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with exit code 2."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.main(["--only", "groups"]) == 2
    assert capsys.readouterr().err == "error: --device cuda: not available here, expected one of cpu\n"


def test_spans_that_name_others_time_are_no_kernels() -> None:
    """As the profiler gives them for an optimiser's step: the same microseconds would count twice."""

    def event(name: str, took: float, *, gpu: bool = True, span: bool = False) -> SimpleNamespace:
        time = SimpleNamespace(elapsed_us=lambda: took)
        kind = DeviceType.CUDA if gpu else DeviceType.CPU
        return SimpleNamespace(name=name, device_type=kind, is_user_annotation=span, time_range=time)

    events = [
        event("copy", 2.0), event("fused", 5.0), event("Optimizer.step#SGD.step", 7.0, span=True), event("copy", 1.0),
        event("aten::copy_", 9.0, gpu=False),
    ]  # fmt: skip
    assert count_kernels(events) == (3, {"copy": 3.0, "fused": 5.0})


def test_host_waits_are_those_that_torch_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its word that this is a prototype; with the places, and the mode is put back."""
    modes = list[str]()
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with watch_waits() as said:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert len(said) == 2
    assert said[0].startswith("test_gpu.py:")
    assert modes == ["warn", "default"]
