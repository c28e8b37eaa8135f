"""The settings of a run beside those of the closest recipe."""

import json
from pathlib import Path
from typing import Any

import pytest

from moco.report.markup import TIMES
from moco.report.runs import read_run
from tests.report.folders import write_run
from tests.report.test_page import parsed


def test_settings_against_the_recipe(tmp_path: Path) -> None:
    """Only what departs from the closest recipe is listed, in bold, with the recipe's value."""
    found = parsed(read_run(write_run(tmp_path / "run", temperature=0.25, epochs=7)))
    listed = {row[0]: row[1:] for row in found.tables[2][1:]}
    assert listed == {"--temperature": ["0.25", "0.1 (quick)"], "--epochs": ["7", "5 (quick)"]}
    assert len(found.tables[3]) > 40  # all of them
    unchanged = parsed(read_run(write_run(tmp_path / "same", channels="rgb")))  # what a run takes for auto
    assert "All settings are those of the recipe quick." in unchanged.text


CHOSEN: dict[str, Any] = {
    "way": {"recipe": "continued", "why": "W trained on: tried for 30 steps <b>it</b> gets 84.1%"},
    "settings": {
        "max_steps": {"value": 400, "reason": "2.5 steps/s were measured"},
        "teacher_size": {"value": None, "reason": "the network's own"},
    },
}


def test_the_reasons_of_auto_are_shown(tmp_path: Path) -> None:
    """The way in a sentence, and each setting with its value and why; markup in them is text."""
    folder = write_run(tmp_path / "run")
    (folder / "auto.json").write_text(json.dumps(CHOSEN))
    found = parsed(read_run(folder))
    table = next(rows for rows in found.tables if rows[0] == ["setting", "value", "reason"])
    assert [row[0] for row in table[1:]] == ["--max-steps", "--teacher-size"]
    assert table[1][1:] == ["400", "2.5 steps/s were measured"]
    assert "Why these settings: run" in found.text
    assert "W trained on: tried for 30 steps <b>it</b> gets 84.1%" in found.text


def test_a_long_reason_is_whole(tmp_path: Path) -> None:
    """It is a sentence, which is not cut as a name is."""
    folder = write_run(tmp_path / "run")
    (folder / "auto.json").write_text(
        json.dumps({**CHOSEN, "way": {**CHOSEN["way"], "why": "a word " * 60 + "the end"}})
    )
    assert "a word the end" in parsed(read_run(folder)).text


@pytest.mark.parametrize(
    ("lengths", "said"),
    [([[30, 400]], "adjusted once"), ([[30, 400], [60, 200]], "adjusted 2 times"), ([], ""), ([[]], ""), (7, "")],
)
def test_a_length_that_was_planned_again_is_said(tmp_path: Path, lengths: Any, said: str) -> None:
    """With the first length and the last; what is no list of turns says nothing."""
    folder = write_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "earlier_lengths": lengths, "max_steps": 123}))
    (folder / "auto.json").write_text(json.dumps(CHOSEN))
    text = parsed(read_run(folder)).text
    assert ("from 400 to 123 steps" in text) == bool(said)
    assert said in text


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"settings": [], "way": {}}', '{"settings": {"lr": 3}, "way": "quick"}', "\udcff"]
)
def test_a_run_without_sound_reasons_shows_none(tmp_path: Path, content: str) -> None:
    """Where auto.json is missing what it should hold, or is damaged."""
    folder = write_run(tmp_path / "run")
    (folder / "auto.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "Why these settings" not in parsed(read_run(folder)).text


def test_the_gpu_is_named_with_memory_driver_and_cuda(tmp_path: Path) -> None:
    """Before the processor; what is not known is left out, and runs from before name the GPU alone."""
    folder = write_run(tmp_path / "run")
    about = {"processor": "a CPU", "cores": 16, "torch": "2.14.1"}
    more = {"gpu": "NVIDIA H100", "gpus": 2, "gpu_memory_gib": 79.1, "driver": "580.1", "cuda": "13.0"}
    (folder / "machine.json").write_text(json.dumps(about | more))
    assert f"2 {TIMES} NVIDIA H100 (79.1 GiB, driver 580.1, CUDA 13.0), " in parsed(read_run(folder)).text
    (folder / "machine.json").write_text(json.dumps(about | {"gpu": "NVIDIA H100", "driver": None}))
    assert "NVIDIA H100, " in parsed(read_run(folder)).text
