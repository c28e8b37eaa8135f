"""Loggers elsewhere: what they get is what metrics.jsonl has; one that fails or hangs never ends a run."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from moco.cli import main
from moco.errors import BadInputError
from moco.runtime import loggers
from moco.runtime.loggers import add_loggers, settle_loggers
from moco.runtime.runlog import RunLog
from moco.runtime.trackers import TRACKERS

OWN = '''
"""A logger that writes a line for each call."""
import json

class Lines:
    def __init__(self, run):
        self.path, self.identity = run.folder / "lines.jsonl", run.identity or "run-7"
        self.write("begin", run.step, run.identity, run.config.get("lr"))
    def write(self, *what):
        with self.path.open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def log(self, step, figures):
        self.write("log", step, dict(figures))
    def close(self, state):
        self.write("close", state)

def connect(run):
    return Lines(run)

class Failing(Lines):
    def log(self, step, figures):
        raise OSError("no route\\nto host")

def failing(run):
    return Failing(run)

def refusing(run):
    raise SystemExit("not today")
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file of the user's own."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def log_two_steps(folder: Path, names: Sequence[str], step: int = 0, **how: Any) -> None:
    """A run's log of two steps."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    with RunLog(folder, 10, settle_loggers(names), **how) as log:
        log.begin(step, '{"lr": 0.1}')
        log.metrics(step + 1, {"loss": 2.0, "norm": float("nan")})
        log.metrics(step + 1, {"knn_top1": 40.0})
        log.health(step + 2, "healthy", {}, {"std": 0.5})
        log.status("done")


def lines(folder: Path) -> list[Any]:
    """What the file's logger wrote."""
    return [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]


def test_a_logger_gets_what_is_logged(tmp_path: Path, own: Path) -> None:
    """The settings, all figures but those that are not finite, and how it ended; resumed, what it called the run."""
    log_two_steps(tmp_path / "run", [f"{own}:connect"])
    figures = [["log", 1, {"loss": 2.0}], ["log", 1, {"knn_top1": 40.0}], ["log", 2, {"std": 0.5}]]
    assert lines(tmp_path / "run") == [["begin", 0, None, 0.1], *figures, ["close", "done"]]
    log_two_steps(tmp_path / "run", [f"{own}:connect"], step=2)
    assert lines(tmp_path / "run")[5] == ["begin", 2, "run-7", 0.1]


def test_only_the_first_rank_logs(tmp_path: Path, own: Path) -> None:
    """The others begin no logger."""
    log_two_steps(tmp_path / "run", [f"{own}:connect"], active=False)
    assert not (tmp_path / "run" / "lines.jsonl").exists()


@pytest.mark.parametrize(("name", "reason"), [("failing", "OSError: no route"), ("refusing", "SystemExit: not today")])
def test_a_logger_that_fails(
    tmp_path: Path, own: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the others get everything; so does metrics.jsonl."""
    log_two_steps(tmp_path / "run", [f"{own}:{name}", f"{own}:connect"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--logger")]
    assert said == [f"--logger {name}: {reason}: it gets no more figures of this run; metrics.jsonl has all"]
    assert [line[0] for line in lines(tmp_path / "run")].count("log") == 3
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


class Hanging:
    """A logger whose network is gone."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Never return in time."""
        time.sleep(20)

    def close(self, state: str) -> None:
        """Nothing."""


def test_a_logger_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No step waits for it; in the end the run waits a while, and says so."""
    monkeypatch.setattr(loggers, "LAST_PATIENCE", 0.2)
    monkeypatch.setattr(loggers, "MOST_WAITING", 1)
    monkeypatch.setitem(TRACKERS, "json", lambda run: Hanging())
    begun = time.monotonic()
    log_two_steps(tmp_path / "run", ["json"])
    assert time.monotonic() - begun < 10
    said = capsys.readouterr().out
    assert said.count("--logger json: too slow") == 1
    assert "--logger json: it does not end" in said


def test_what_cannot_be_a_logger(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each, before anything is trained."""
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    for name, said in (
        ("wandb", r"pip install 'momentum-contrast\[wandb\]'"),
        ("wanb", "expected one of wandb, mlflow, or FILE.py:FUNCTION"),
        (f"{own}:nothing", r"has no function nothing: expected def nothing\(run\)"),
        (f"{tmp_path / 'gone.py'}:connect", "cannot be read"),
    ):
        with pytest.raises(BadInputError, match=said):
            settle_loggers([name])


def test_code_that_a_file_names_is_not_run(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a run's config says of own code is not loaded, and is said; given again, it takes the place of that."""
    stored = "own:never@sha256:0"
    log_two_steps(tmp_path / "run", [stored])
    assert "this run was also logged by your own never: to continue there, give it again" in capsys.readouterr().out
    given = settle_loggers([f"{own}:connect"])
    assert add_loggers(("wandb", "own:connect@sha256:1"), given) == (*given, "wandb")


RUN = ["--precision", "fp32", "--device", "cpu", "--threads", "1", "--image-size", "8", "--batch-size", "32",
       "--queue-size", "64", "--knn-every", "0", "--workers", "0", "--log-every", "1",
       "--arch", "resnet10-w16"]  # fmt: skip


def figures_logged(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses in metrics.jsonl."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def test_from_the_command_line(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run and its resumption: the same run there; config.json names no file, and one that does is refused."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # tyro marks values that are missing
    out = tmp_path / "run"
    train = ["pretrain", "quick", "--data", "digits", "--out", str(out), "--max-steps", "3", *RUN]
    assert main([*train, "--logger", f"{own}:connect"]) == 0
    config = json.loads((out / "config.json").read_text())
    assert [name.partition("@")[0] for name in config["logger"]] == ["own:connect"]
    sent = [(line[1], line[2]["loss"]) for line in lines(out) if line[0] == "log" and "loss" in line[2]]
    assert sent == figures_logged(out)
    assert len(sent) == 3
    (out / "status.json").write_text('{"state": "stopped", "step": 3}')
    assert main(["resume", str(out)]) == 0
    assert "logged by your own connect" in capsys.readouterr().out
    (out / "status.json").write_text('{"state": "stopped", "step": 3}')
    assert main(["resume", str(out), "--logger", f"{own}:connect"]) == 0
    assert ["begin", 3, "run-7", config["lr"]] in lines(out)
    for key, value in (("logger", [f"{own}:refusing"]), ("pretext", f"{own}:connect")):
        (out / "config.json").write_text(json.dumps({**config, key: value}))
        assert main(["resume", str(out)]) == 2
        assert "only a command line names such" in capsys.readouterr().err
