"""The formula for memory against figures that follow from it, or do not, by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from moco.runtime import device
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Outcome, find_study
from moco.study.formula import KEY, add_predictions, check_formula
from moco.study.memory import count_memory, formula_bytes, saved_bytes
from moco.study.page import study_page
from moco.study.rows import Row, list_values

MEMORY = Outcome("peak memory (MiB)", KEY, lower_is_better=True)
FORMULA = {f"{kind}-{n}": {"bytes": per * n * 2**20, "batch": n} for kind, per in (("a", 2), ("b", 4))
           for n in (10, 20, 40)}  # fmt: skip


def rows(constant: float, factor: float) -> list[Row]:
    """Rows that take the constant and a multiple of the formula, in MiB; two seeds, one above and one below."""
    takes = {name: constant + factor * own["bytes"] / 2**20 for name, own in FORMULA.items()}
    return [Row(name, Arm(name, series=name[0]), MEMORY, (each - 1, each + 1)) for name, each in takes.items()]


def test_a_formula_that_is_right_is_trusted() -> None:
    """The constant is found, and every prediction is exact; the largest batches are held out."""
    check = check_formula(rows(500, 1), FORMULA)
    assert check is not None
    assert check.constant == pytest.approx(500)
    assert [one.predicted for one in check.predictions] == pytest.approx([520, 540, 580, 540, 580, 660])
    assert [one.held_out for one in check.predictions] == [False, False, True] * 2
    assert max(abs(one.error) for one in check.predictions) == pytest.approx(0)
    assert "trust the extrapolation within 10%" in check.sentence


def test_a_formula_that_leaves_something_out_is_not() -> None:
    """By hand, with half as much again: the constant takes up half of the smaller batches' mean of 45 MiB."""
    check = check_formula(rows(500, 1.5), FORMULA)
    assert check is not None
    assert check.constant == pytest.approx(522.5)
    assert check.worst.row == "b-40"
    assert (check.worst.measured, check.worst.predicted) == pytest.approx((740, 682.5))
    assert check.worst.error == pytest.approx(100 * (682.5 / 740 - 1))
    assert check.worst.own_error == pytest.approx(-100 * 57.5 / 217.5)
    assert "26% of what they take beyond it (too little for b-40): do not trust the extrapolation." in check.sentence


def test_the_largest_batches_do_not_move_what_is_predicted_of_them() -> None:
    """However much they take."""
    some = rows(500, 1)
    some[5] = dataclasses.replace(some[5], values=(5000.0,))
    check = check_formula(some, FORMULA)
    assert check is not None
    assert check.worst.predicted == pytest.approx(660)


def test_nothing_to_check() -> None:
    """One batch alone, no figures, other figures, no formula."""
    some = rows(500, 1)
    assert check_formula(some[:1], FORMULA) is None
    assert check_formula([dataclasses.replace(row, values=()) for row in some], FORMULA) is None
    assert (
        check_formula([dataclasses.replace(row, outcome=Outcome("s", "run.seconds")) for row in some], FORMULA) is None
    )
    assert check_formula(some, {}) is None


def test_table_and_page_have_it() -> None:
    """A figure of another kind has no prediction; without a check there is no column."""
    some = [*rows(500, 1), Row("a-10: ms", Arm("a-10"), Outcome("ms", "run.ms"), (3.0,))]
    check = check_formula(some, FORMULA)
    table = list_values(some, None)
    add_predictions(table, None)
    assert "predicted" not in table[0]
    add_predictions(table, check)
    assert [(row["predicted"], row["held_out"]) for row in table[-2:]] == [(660, True), (None, None)]
    assert [row["error_percent"] for row in table[:6]] == pytest.approx([0] * 6)
    findings: dict[str, Any] = {
        "verdict": "",
        "random": None,
        "results": [],
        "notes": [],
        "budget": "",
        "extrapolation": None,
    }
    page = study_page(find_study("cost"), some, None, [], {**findings, "check": check}, "")
    assert '<td class="n">660</td><td class="n">660</td><td class="n">+0.0</td>' in page


def test_bytes_that_autograd_keeps() -> None:
    """Of linear, ReLU, linear: 8 numbers of 4 bytes of each row, shared by ReLU and the second layer; without x."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert saved_bytes(net, torch.zeros(5, 4)) == 5 * 8 * 4


def test_the_formula_by_hand() -> None:
    """Each mechanism has its own terms."""
    assert formula_bytes(1000, 50, 8, 16, "queue") == 16_000 + 400 + 512 * 16 + 12 * 8 * 16
    assert formula_bytes(1000, 50, 8, 7, "in-batch") == 12_000 + 800 + 512 * 7 + 12 * 8 * 7
    assert formula_bytes(1000, 50, 8, 16, "memory-bank", stored=90, dim=64) == 12_000 + 400 + 256 * 90 + 12 * 8 * 16


def test_the_arms_of_cost_have_bytes(tmp_path: Path) -> None:
    """End-to-end keeps both views; a longer queue costs its keys and logits: 61440 keys of 512 bytes and 12 n each."""
    own = count_memory(StudyConfig("cost", "d", tmp_path), tmp_path, "50000")["arms"]
    assert own.keys() == {arm.name for arm in find_study("cost").arms}
    assert own["queue-512-65536"]["bytes"] - own["queue-512"]["bytes"] == 61_440 * (512 + 12 * 512)
    assert own["in-batch-512"]["bytes"] > own["queue-512"]["bytes"]
    assert own["queue-128"]["batch"] == 128


def test_on_a_gpu_the_memory_is_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: what torch's allocator held there at most, and not the process's own memory."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123)
    assert device.peak_memory("cuda") == 123
    assert device.peak_memory("cpu") > 2**20
