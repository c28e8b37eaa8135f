"""`moco report`: what it computes, leaves out and refuses, on the run of the fixture."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest

import moco
from moco.cli import main
from tests.report.folders import Parsed, write_run

CPU = ["--device", "cpu", "--threads", "1"]
SHORT = ["--map-images", "60", "--map-seconds", "0.1", *CPU]


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are not checked: a flag that must be given has a placeholder."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished run on the digits."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def parts(page: Path) -> list[str | None]:
    """The parts of a page, whose HTML must be sound."""
    found = Parsed(page.read_text(encoding="utf-8"))
    assert found.trouble == []
    return [attributes["id"] for attributes in found.all("section") if "id" in attributes]


def test_a_report_with_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gallery is computed once, kept, and computed again for other weights; the page lies in the run's folder."""
    assert main(["report", str(run), *SHORT, "--json"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    page, stored = run / "report.html", run / "evaluations" / "gallery.json"
    assert result == {"report": str(page), "bytes": page.stat().st_size, "runs": ["run"]}
    always = ["verdict", "setup", "training", "evaluations", "views", "neighbours", "map", "confusion", "filters"]
    assert parts(page) == always
    text = Parsed(page.read_text(encoding="utf-8")).text
    machine = json.loads((run / "machine.json").read_text())
    assert machine["processor"] in text
    assert f"torch {machine['torch']}" in text
    before = stored.stat().st_mtime_ns
    assert main(["report", str(run), *SHORT]) == 0
    assert stored.stat().st_mtime_ns == before
    values = json.loads(stored.read_text())
    values["of"]["weights"] = "others"
    stored.write_text(json.dumps(values))
    assert main(["report", str(run), *SHORT]) == 0
    assert json.loads(stored.read_text())["of"]["weights"] != "others"


def test_a_run_whose_images_are_gone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is made without them and says so; images can be given."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": "photos/that/are/gone"}))
    out = run.parent / "page.html"
    assert main(["report", str(run), "--out", str(out), *SHORT]) == 0
    assert "no longer there: give --data" in capsys.readouterr().out
    assert "map" not in parts(out)
    assert "views, neighbours and map are left out" in Parsed(out.read_text(encoding="utf-8")).text
    assert not (run / "report.html").exists()
    assert main(["report", str(run), "--out", str(out), "--data", "digits", *SHORT]) == 0
    assert "map" in parts(out)


def test_an_older_run_without_newer_settings(run: Path) -> None:
    """Settings that were added since have their defaults; unknown ones are shown and passed over."""
    config = json.loads((run / "config.json").read_text())
    for name in ("timeout", "decode", "compile"):
        del config[name]
    (run / "config.json").write_text(json.dumps({**config, "from_the_future": 1}))
    assert main(["report", str(run), *SHORT]) == 0
    assert "map" in parts(run / "report.html")
    assert "--from-the-future" in Parsed((run / "report.html").read_text(encoding="utf-8")).text


def test_two_runs_of_one_name(run: Path, tmp_path: Path) -> None:
    """Are numbered; one without weights has no map and says why."""
    other = write_run(tmp_path / "other" / "run")
    assert main(["report", str(run), str(other), "--no-gallery"]) == 0
    text = Parsed((run / "report.html").read_text(encoding="utf-8")).text
    assert "run (1)" in text
    assert "run (2)" in text
    assert main(["report", str(other), *SHORT]) == 0
    text = Parsed((other / "report.html").read_text(encoding="utf-8")).text
    assert "has not written an encoder.safetensors yet" in text


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["report"], ["no run is given", "moco report RUN"]),
        (["report", "gone"], ["gone: no run to report", "config.json"]),
        (["report", "RUN", "gone"], ["gone: no run to report"]),
        (["report", "RUN", "--data", "gone"], ["--data gone"]),
        (["report", "RUN", "--map-images", "0"], ["--map-images is 0", "10000"]),
        (["report", "RUN", "--map-images", "10001"], ["--map-images is 10001"]),
        (["report", "RUN", "--map-seconds", "nan"], ["--map-seconds is nan"]),
        (["report", "RUN", "--out", "no/such/folder/page.html"], ["page.html", "cannot be written"]),
        (["report", "RUN", "--out", "RUN"], ["--out", "that is a folder"]),
        (["report", "RUN", "--threads", "0"], ["--threads is 0"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], messages: list[str]) -> None:
    """One line, exit code 2, no page."""
    assert main([str(run) if value == "RUN" else value for value in arguments]) == 2
    out, err = capsys.readouterr()
    assert "computing" not in out or "--data" in arguments  # nothing long is done first
    assert err.startswith("moco: error: ")
    assert err.count("\n") == 1
    for part in messages:
        assert part in err
    assert not (run / "report.html").exists()


def test_a_report_of_what_is_stored_needs_no_torch(tmp_path: Path) -> None:
    """It is made where nothing can be computed, in a moment."""
    folder = write_run(tmp_path / "run")
    program = f"""
import sys
from moco.cli import main
code = main(["report", {str(folder)!r}, "--no-gallery"])
print(code, sorted({{"torch", "torchvision", "sklearn", "numpy"}} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(moco.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
