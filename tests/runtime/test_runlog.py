"""The run folder: metrics line by line, the cut on resuming, the lock, the status."""

import functools
import importlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moco.errors import BadInputError
from moco.runtime.folder import lock, read_status
from moco.runtime.runlog import RunLog, read_events, write_text
from tests.faults.processes import ended_well, start_program

LOSS = {"loss": 2.5, "images_per_second": 100.0}


def lines(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def without_time(run: Path) -> list[dict[str, Any]]:
    """The same, but for when."""
    return [{name: value for name, value in line.items() if name != "time"} for line in lines(run)]


def test_metrics_have_step_and_time(tmp_path: Path) -> None:
    """Every line has its figures, its step and the seconds since the start, which only grow; each is there at once."""
    with RunLog(tmp_path, 10) as log:
        for step in (1, 2):
            log.metrics(step, {"loss": 2.5 / step, "images_per_second": 100.0})
            assert len(lines(tmp_path)) == step
        log.event("saved", path="x")
    assert without_time(tmp_path) == [
        {"step": 1, "loss": 2.5, "images_per_second": 100.0},
        {"step": 2, "loss": 1.25, "images_per_second": 100.0},
        {"event": "saved", "path": "x"},
    ]
    times = [line["time"] for line in lines(tmp_path)]
    assert 0 <= times[0] <= times[1] <= times[2] < 60


def test_what_is_not_a_number_becomes_null(tmp_path: Path) -> None:
    """The file is JSON for every reader, also where a run diverges."""
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, {"loss": float("nan"), "gradient_norm": float("inf"), "images_per_second": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert without_time(tmp_path) == [{"step": 1, "loss": None, "gradient_norm": None, "images_per_second": 1.0}]


def test_resuming_cuts_what_came_later(tmp_path: Path) -> None:
    """Lines beyond the step go, the step's own monitor figures too (they come again), and the resumption is logged."""
    with RunLog(tmp_path, 10) as log:
        log.event("started")
        for step in range(1, 6):
            log.metrics(step, LOSS)
            log.metrics(step, {"knn_top1": 10.0 * step})
        log.event("stopped", step=5)
    with RunLog(tmp_path, 10) as log:
        assert LOSS.items() <= log.resume(3, seconds=100.0).items()
        log.metrics(4, LOSS)
    assert without_time(tmp_path) == [
        {"event": "started"},
        {"step": 1, **LOSS},
        {"step": 1, "knn_top1": 10.0},
        {"step": 2, **LOSS},
        {"step": 2, "knn_top1": 20.0},
        {"step": 3, **LOSS},
        {"event": "resume", "step": 3},
        {"step": 4, **LOSS},
    ]


def test_resuming_continues_the_clock(tmp_path: Path) -> None:
    """The time goes on from what the checkpoint says, without the pause."""
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, LOSS)
    with RunLog(tmp_path, 10) as log:
        log.resume(1, seconds=100.0)
        assert 100 <= log.seconds < 160
        log.metrics(2, LOSS)
    assert [line["time"] >= 100 for line in lines(tmp_path)] == [False, True, True]


def test_resuming_at_the_start(tmp_path: Path) -> None:
    """A run without a checkpoint starts over, and says so."""
    with RunLog(tmp_path, 10) as log:
        log.metrics(0, {"knn_top1": 10.0})
        log.metrics(1, LOSS)
    with RunLog(tmp_path, 10) as log:
        assert log.resume(0, seconds=0.0) == {}
    assert without_time(tmp_path) == [{"event": "resume", "step": 0}]


@pytest.mark.parametrize("half", ['{"step": 2, "lo', '{"step": 2', "{", "\0\0\0"])
def test_a_half_written_line_is_survived(tmp_path: Path, half: str) -> None:
    """The line that was being written when the run was killed is cut off; what follows is sound again."""
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, LOSS)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    with RunLog(tmp_path, 10) as log:
        log.resume(2, seconds=1.0)
        log.metrics(3, LOSS)
    assert without_time(tmp_path) == [{"step": 1, **LOSS}, {"event": "resume", "step": 2}, {"step": 3, **LOSS}]


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Another process learns which process holds the folder, and leaves it as it is."""
    run = tmp_path / "run"
    run.mkdir()
    with RunLog(run, 10) as log:
        log.metrics(1, LOSS)
        other = ended_well(start_program(functools.partial(enter, run), tmp_path, ranks=1)).text()
        log.metrics(2, LOSS)
    where = f"process {os.getpid()} on {socket.gethostname()}"
    assert other == f"--out {run}: {where} is writing it: wait, or give another\n"
    assert [line["step"] for line in lines(run)] == [1, 2]


def enter(run: Path) -> None:
    """Begin to write a run's folder, and print why that is refused."""
    with pytest.raises(BadInputError) as refused:
        RunLog(run, 10).__enter__()
    print(refused.value)


def test_the_lock_ends_with_the_run(tmp_path: Path) -> None:
    """After the run, also after one that failed, the next may begin."""
    with pytest.raises(RuntimeError, match="a step failed"), RunLog(tmp_path, 10):
        raise RuntimeError("a step failed")
    lock(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The error comes before the first step, names the flag and says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"--out .*file/run: cannot be written \(Not a directory\): give a folder"):
        RunLog(tmp_path / "file" / "run", 10).__enter__()


def test_status(tmp_path: Path) -> None:
    """status.json says the state, the process and what else is known; each replaces the last, with nothing beside."""
    with RunLog(tmp_path, 10) as log:
        assert read_status(tmp_path) == {}
        log.status("running", step=3)
        assert read_status(tmp_path) == {"state": "running", "pid": os.getpid(), "step": 3}
        log.status("done", step=10, exit_code=0)
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "state": "done", "pid": os.getpid(), "step": 10, "exit_code": 0,
    }  # fmt: skip
    assert not list(tmp_path.glob("*.part"))


def test_slow_steps_are_not_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first figures may be due after an hour; until then a line a minute says how far the training is."""
    now = 0.0
    monkeypatch.setattr("moco.runtime.runlog.time.monotonic", lambda: now)
    with RunLog(tmp_path, 10) as log:
        for step in range(8):
            now = 25.0 * step
            log.progress(step)
        log.metrics(8, {"loss": 1.0})
        now += 50.0
        log.progress(9)
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["step 3/10  0:02:55 left", "step 6/10  0:01:40 left"]
    assert [line.split()[1] for line in told] == ["3/10", "6/10", "8/10"]


def test_what_was_said_of_health_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A further finding stands alone on the terminal; the record has the whole text."""
    with RunLog(tmp_path, 10) as log:
        log.health(4, "Too short.", {"short": "undecided"}, {})
        log.health(6, "Too short. At chance.", {"short": "undecided", "chance": "undecided"}, {})
        log.health(8, "Too short.", {"short": "undecided"}, {})
    told = [line.split("health: ")[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["Too short.", "At chance.", "Too short."]
    assert [line["health"] for line in without_time(tmp_path)] == ["Too short.", "Too short. At chance.", "Too short."]


def test_health(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of metrics with the words, what was found and its figures, kept in every later status.

    A person reads the words once, until something else is found.
    """
    with RunLog(tmp_path, 10) as log:
        log.health(4, "Too few.", {"filling": "undecided"}, {"filled": 25.0})
        log.status("running", step=4)
        assert read_status(tmp_path) == {"state": "running", "pid": os.getpid(), "health": "Too few.", "step": 4}
        log.health(6, "Too few yet.", {"filling": "undecided"}, {"filled": 75.0})
        log.health(8, "healthy", {}, {"filled": 100.0, "effective_rank": float("nan")})
        log.status("done", step=8)
    assert without_time(tmp_path) == [
        {"step": 4, "health": "Too few.", "findings": ["filling"], "conditions": ["undecided"], "filled": 25.0},
        {"step": 6, "health": "Too few yet.", "findings": ["filling"], "conditions": ["undecided"], "filled": 75.0},
        {"step": 8, "health": "healthy", "findings": [], "conditions": [], "filled": 100.0, "effective_rank": None},
    ]
    said = "step 4/10  health: Too few.\nstep 8/10  health: healthy\n"
    assert capsys.readouterr().out == said
    assert read_status(tmp_path)["health"] == "healthy"
    with RunLog(tmp_path, 10) as log:
        log.resume(8, seconds=1.0)
    assert [line["step"] for line in lines(tmp_path)] == [4, 6, 8]  # what was said of step 8 will be said again
    assert lines(tmp_path)[-1]["event"] == "resume"


def test_a_log_that_is_removed_begins_anew(tmp_path: Path) -> None:
    """What is logged later has a file that can be read."""
    with RunLog(tmp_path, 3) as log:
        log.event("first")
        (tmp_path / "metrics.jsonl").unlink()
        log.event("second")
    assert without_time(tmp_path) == [{"event": "second"}]


def test_plain_lines_where_nobody_watches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line of text for each step that is logged, without colours, on stdout."""
    with RunLog(tmp_path, 10) as log:
        log.say("[bold]8 images[/bold], /a/path/that/is/much/longer/than/eighty/characters" + "/and/goes/on" * 5)
        log.metrics(1, LOSS)
        log.metrics(1, {"knn_top1": 12.3456})
        log.progress(1)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "[bold]8 images[/bold], /a/path/that/is/much/longer/than/eighty/characters" + "/and/goes/on" * 5,
        "step 1/10  loss 2.500  100 images/s",
        "step 1/10  kNN accuracy 12.3%",
    ]
    assert err == ""


def test_the_time_left_is_that_of_the_steps_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of this part of the run, evaluations included; nothing is said before there are two steps."""
    log = RunLog(tmp_path, 10)
    with log:
        log.metrics(4, LOSS)
        log.progress(4)
        assert log._moved is not None
        log._moved = 4, log._moved[1] - 30.0
        log.metrics(6, LOSS)
    first, second = capsys.readouterr().out.splitlines()
    assert "left" not in first
    assert second.endswith("0:01:00 left")


def test_stdout_is_left_to_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json text for people goes to stderr: stdout is for the one object that a command ends with."""
    with RunLog(tmp_path, 10, stdout=False) as log:
        log.metrics(1, LOSS)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "step 1/10  loss 2.500  100 images/s\n"


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the loss moves in a bar instead of in lines; other figures still have lines."""
    screen = io.StringIO()
    log = RunLog(tmp_path, 10)
    log.console = Console(file=screen, force_terminal=True, width=120)
    with log:
        log.metrics(4, LOSS)
        log.progress(4)
        log.metrics(4, {"knn_top1": 12.3456})
    assert "4/10" in screen.getvalue()
    assert "loss 2.500  100 images/s" in screen.getvalue()
    assert "step 4/10  kNN accuracy 12.3%" in screen.getvalue()
    assert "step 4/10  loss" not in screen.getvalue()


def test_the_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every rank but the first keeps silent, and its clock goes on all the same."""
    with RunLog(tmp_path, 10, active=False) as log:
        log.resume(3, seconds=100.0)
        log.metrics(4, LOSS)
        log.event("saved")
        log.status("running")
        log.progress(4)
        log.say("hello")
        assert log.seconds >= 100
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    """The figures are also there for TensorBoard."""
    with RunLog(tmp_path, 10) as log:
        log.metrics(1, LOSS)
        log.metrics(2, {**LOSS, "loss": 1.5})
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("loss")] == [(1, 2.5), (2, 1.5)]


def test_a_failing_write_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are whole at every moment too."""
    path = tmp_path / "config.json"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("interrupted")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="interrupted"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "bad", [b"[" * 100_000, b"\xff\xfe", b"[]", b'"x"', b"9" * 5000, b'{"event"'], ids=lambda b: repr(b[:9])
)
def test_damaged_lines_are_passed_over(tmp_path: Path, bad: bytes) -> None:
    """Found by fuzzing: nesting without end, what is no text, other values; the status too."""
    good = [b'{"event": "replaced", "step": 1, "index": 3}', b'{"event": "resume", "step": 1}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], bad, good[1]]) + b"\n")
    (tmp_path / "status.json").write_bytes(bad)
    assert read_events(tmp_path, "replaced") == [{"event": "replaced", "step": 1, "index": 3}]
    assert read_status(tmp_path) == {}
    with RunLog(tmp_path, 3, stdout=False) as log:
        log.resume(2, 0.0)
    assert [event["step"] for event in read_events(tmp_path, "resume")] == [1, 2]
    assert read_events(tmp_path / "none", "resume") == []


def test_a_reader_that_leaves_ends_nothing(tmp_path: Path) -> None:
    """`moco pretrain ... | head -1`: what nobody reads is dropped."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom moco.runtime.runlog import RunLog\n"
        "sys.stdin.read()\n"
        "with RunLog(Path(sys.argv[1]), 1) as log:\n"
        "    for _ in range(3):\n        log.say('hello')\n"
        "    log.status('done', step=1)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.DEVNULL, stdout=writer, check=False
    )
    os.close(writer)
    assert done.returncode == 0
    assert read_status(tmp_path)["state"] == "done"
