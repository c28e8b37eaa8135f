"""Weights & Biases and MLflow, with their real libraries and without a network: what they hold is what was logged."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moco.runtime.loggers import settle_loggers
from moco.runtime.runlog import RunLog

FIGURES = {"loss": 2.5, "knn_top1": 40.0, "AP 50%": 12.5}


def log_a_part(folder: Path, tracker: str, step: int, state: str) -> str:
    """Log a step of a run that has made `step`, and return what the tracker calls the run."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    with RunLog(folder, 10, settle_loggers([tracker])) as log:
        log.begin(step, '{"lr": 0.1, "data": "digits"}')
        log.metrics(step + 1, FIGURES)
        log.status(state)
    return str(json.loads((folder / "loggers.json").read_text())[tracker])


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run's file: blocks of 32 KiB, each of chunks with a checksum, a length and a type."""
    kind: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, part = struct.unpack("<HB", content[place + 4 : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield kind.FromString(whole)
            whole = b""


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings and all figures lie in the run folder; a resumed run goes on under the same id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    first = log_a_part(run, "wandb", 0, "stopped")
    said = capsys.readouterr()
    assert "logging to wandb: offline, in " in said.out
    assert "wandb: WARNING" not in said.err
    assert log_a_part(run, "wandb", 1, "done") == first
    importlib.import_module("wandb").teardown()  # its own process has written the last record then
    files = sorted((run / "wandb").glob(f"offline-run-*/run-{first}.wandb"))
    found, settings, codes = list[Any](), dict[str, Any](), list[int]()
    for path in files:
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                found.append({name: json.loads(items[name]) for name in ("step", *FIGURES)})
            elif record.WhichOneof("record_type") == "run":
                settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key}
            elif record.WhichOneof("record_type") == "exit":
                codes.append(record.exit.exit_code)
    assert sorted(found, key=lambda one: one["step"]) == [{"step": step, **FIGURES} for step in (1, 2)]
    assert settings["lr"] == 0.1
    assert codes == [0, 0]


def test_wandb_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked: one line says what to do, and the run goes on."""
    monkeypatch.setattr(importlib.import_module("wandb"), "login", lambda prompt: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "config.json").write_text("{}")
    with RunLog(tmp_path, 10, settle_loggers(["wandb"])) as log:
        log.begin(0, "{}")
        log.metrics(1, FIGURES)
    said = [line for line in capsys.readouterr().out.splitlines() if "--logger wandb" in line]
    assert len(said) == 1
    assert "not logged in: run wandb login, or set WANDB_MODE=offline" in said[0]


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_mlflow_prints_nothing_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines about a run on a server have two emojis, and would stand in what --json prints."""
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_a_part(tmp_path / "run", "mlflow", 0, "done")
    assert importlib.import_module("mlflow.environment_variables").MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get()


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_mlflow_in_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server its database lies in the run folder; a resumed run goes on, and ends as the run does."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "run"
    first = log_a_part(run, "mlflow", 0, "stopped")
    tracking: Any = importlib.import_module("mlflow.tracking")
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    assert client.get_run(first).info.status == "KILLED"
    assert log_a_part(run, "mlflow", 1, "done") == first
    kept = client.get_run(first)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"lr": "0.1", "data": "digits"}
    for name, value in FIGURES.items():
        history = client.get_metric_history(first, name.replace("%", "_"))
        assert [(metric.step, metric.value) for metric in history] == [(1, value), (2, value)]
