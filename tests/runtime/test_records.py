"""Numbers that are none, records that are damaged, and files that do not end are refused or passed over, by shape."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.errors import BadInputError
from moco.runtime import records
from moco.runtime.folder import read_status
from moco.runtime.records import parse_json, read_object, read_records, require_numbers
from moco.runtime.runlog import RunLog, read_metrics

NONE = ["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "1" + 400 * "0", "-" + "9" * 5000]
"""What Python reads as a number of a legal type, and no program can reckon with."""
SHAPES = ["{}", '{{"a": {}}}', '[1, {{"a": [0, {}]}}]']


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", NONE)
def test_numbers_that_are_none(shape: str, number: str) -> None:
    """They are refused wherever they stand."""
    with pytest.raises(ValueError, match=r"is not a JSON number|is too large"):
        parse_json(shape.format(number))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e308, 1e308) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_everything_else_is_read(value: Any) -> None:
    """As Python's own parser reads it."""
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1} 2'])
def test_a_file_that_holds_no_object(tmp_path: Path, content: bytes) -> None:
    """It is refused in one line that names it; a status is as if there were none."""
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"status\.json: ") as error:
        read_object(path)
    assert "\n" not in str(error.value)
    assert read_status(tmp_path) == {}


@pytest.mark.parametrize("number", NONE[:-1])
def test_the_place_in_a_file_is_named(tmp_path: Path, number: str) -> None:
    """The key is what a person looks for."""
    path = tmp_path / "config.json"
    path.write_text(f'{{"arms": [{{"lr": {number}}}]}}')
    with pytest.raises(BadInputError, match=r"config\.json: arms: 0: lr is "):
        read_object(path)


DAMAGED = [
    '{"step": null, "loss": 1}', '{"step": NaN, "loss": 1}', '{"step": 1e400}', '{"step": -1}', '{"step": 0.5}',
    '{"step": "1"}', '{"step": true}', '{"step": [1]}', '{"step": 1, "time": null}', '{"step": 1, "loss": Infinity}',
    '{"step": 1, "time": "x"}', "[1]", "1", "null", '"step"', '{"step": 1', "", "\x00" * 100, "[" * 100_000,
]  # fmt: skip
"""Lines of a log of which none can be made use of."""


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_of_a_log(tmp_path: Path, line: str) -> None:
    """It is passed over, and a run that goes on cuts it out; what stands around it stays."""
    first, last = {"step": 1, "loss": 2.0, "time": 0.1}, {"step": 2, "loss": 1.5, "time": 0.2}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{line}\n{json.dumps(last)}\n")
    assert read_metrics(tmp_path) == [first, last]
    with RunLog(tmp_path, 10) as log:
        assert log.resume(2, 1.0) == last
    assert read_metrics(tmp_path)[:2] == [first, last]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_log_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, 20 GB without a line, and lines without number: refused, or passed over in bounded memory."""
    path = tmp_path / "metrics.jsonl"
    os.mkfifo(path)
    with pytest.raises(BadInputError, match="regular file"):
        read_metrics(tmp_path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(BadInputError, match="21474836480 bytes, expected at most"):
        read_metrics(tmp_path)
    path.write_bytes(b'{"step": 1}\n' * 50)
    monkeypatch.setattr(records, "MOST_LINES", 40)
    with pytest.raises(BadInputError, match="more than 40 lines"):
        list(read_records(path))
    path.unlink()
    assert read_metrics(tmp_path) == []


def test_a_run_whose_log_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """A writer of a pipe without a reader would wait for ever."""
    os.mkfifo(tmp_path / "metrics.jsonl")
    started = time.monotonic()
    with pytest.raises(BadInputError, match="regular file"), RunLog(tmp_path, 10):
        pass
    assert time.monotonic() - started < 5


def test_the_place_of_a_number_is_named() -> None:
    """Of a number that TOML takes and nobody can use."""
    for value, said in ((float("nan"), "nan, expected a finite number"), (2**63, "a whole number of more than 64")):
        with pytest.raises(BadInputError, match=f"study: arms: 1: lr is {said}"):
            require_numbers({"arms": [{}, {"lr": value}]}, "study")
    require_numbers({"arms": [1.5, 2**63 - 1, True, "NaN", None]}, "study")
