"""`moco explore`: served to its address until it is interrupted, or written to a file; what it refuses."""

import io
import json
import re
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import moco
from moco.cli import main
from moco.commands import explore
from moco.data.catalog import load
from moco.data.images import ArrayImages
from moco.evaluation.features import Encoding
from moco.evaluation.session import Subject
from moco.explore.embedding import Embedding
from tests.faults.processes import kill_all, start, until
from tests.report.folders import Parsed

SHORT = ["--data", "digits", "--images", "60", "--map-seconds", "0.1", "--device", "cpu", "--threads", "1"]


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Types are not checked: a flag that must be given has a placeholder. No server is left."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    yield
    kill_all()


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished run on the digits."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_page_to_send_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two runs, with all thumbnails in one picture."""
    other, page = Path(shutil.copytree(run, tmp_path / "other")), tmp_path / "sent.html"
    assert main(["explore", str(run), str(other), *SHORT, "--static", str(page), "--json"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {"page": str(page), "bytes": page.stat().st_size, "images": 60}
    found = Parsed(page.read_text(encoding="utf-8"))
    assert found.trouble == []
    data = json.loads(next(text for attributes, text in found.scripts if attributes.get("id") == "data"))
    assert [one["name"] for one in data["runs"]] == ["run", "other"]
    assert len(data["names"]) == len(data["labels"]) == len(data["stored"]["found"][1]) == 60
    assert data["classes"] == list(load("digits")["train"].classes)


def test_what_the_run_left_out_is_left_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own `--exclude` holds unless another one is given."""
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**settings, "exclude": ["#1*", "#2*"]}))
    for more, left in ([], "3456789"), (["--exclude", "#[2-9]*", "--exclude", "#0"], "1"):
        page = tmp_path / f"{left}.html"
        assert main(["explore", str(run), *SHORT, *more, "--static", str(page), "--json"]) == 0
        capsys.readouterr()
        scripts = Parsed(page.read_text(encoding="utf-8")).scripts
        names = json.loads(next(text for attributes, text in scripts if attributes.get("id") == "data"))["names"]
        assert {name[1] for name in names if name != "#0"} == set(left)


@pytest.mark.filterwarnings("always:left out")
def test_images_that_cannot_be_read_are_left_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a warning that names them; the page shows the others."""
    for number in range(9):
        PillowImage.new("RGB", (16 + number, 20), (20 * number, 9, 90)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    page = tmp_path / "page.html"
    data = ["--data", str(tmp_path), "--exclude", "run"]
    assert main(["explore", str(run), *data, *SHORT[2:], "--static", str(page), "--json"]) == 0
    out, said = capsys.readouterr()
    assert "left out 1 image that cannot be read: 4.png" in said
    assert json.loads(out.splitlines()[-1])["images"] == 8


def test_it_is_served_until_it_is_interrupted(run: Path, tmp_path: Path) -> None:
    """An image of the set that is sent in finds itself; then Ctrl-C, and exit code 0."""
    served = start(["explore", str(run), *SHORT, "--port", "0", "--json"], tmp_path)
    said = until(lambda: re.search(r"open (http://\S+)/\?token=(\S+) ", served.text()), "the address")
    address, token = said.groups()
    out, image = io.BytesIO(), load("digits")["train"][0]
    PillowImage.fromarray(image.permute(1, 2, 0).numpy()).save(out, "PNG")
    request = urllib.request.Request(f"{address}/neighbours", out.getvalue(), {"X-Moco-Token": token})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    assert found[0]["rows"][0] == 0
    assert found[0]["distances"][0] == pytest.approx(0, abs=1e-4)
    thumbnail = urllib.request.Request(f"{address}/thumbnail/0", headers={"X-Moco-Token": token})
    with urllib.request.urlopen(thumbnail, timeout=60) as answer:
        shown = np.asarray(PillowImage.open(io.BytesIO(answer.read())).convert("RGB")).astype(int)
    assert shown.shape == (*image.shape[1:], 3)
    assert abs(shown - image.permute(1, 2, 0).numpy()).mean() < 12
    served.send(signal.SIGINT)
    assert served.exit_codes() == [0]
    (last,) = [line for line in served.text().splitlines() if line.startswith("{")]
    assert json.loads(last)["images"] == 60


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["explore"], ["0 runs", "moco explore RUN"]),
        (["explore", "RUN", "RUN", "RUN"], ["3 runs"]),
        (["explore", "gone"], ["gone", "expected a run folder"]),
        (["explore", "RUN", "--data", "gone"], ["--data gone"]),
        (["explore", "RUN", "--port", "70000"], ["--port is 70000"]),
        (["explore", "RUN", "--port", "TAKEN"], ["cannot be used", "give another"]),
        (["explore", "RUN", "--images", "1"], ["--images is 1"]),
        (["explore", "RUN", "--map-seconds", "nan"], ["--map-seconds is nan"]),
        (["explore", "RUN", "--clusters", "0"], ["--clusters is 0"]),
        (["explore", "RUN", "--clusters", str(10**12)], ["--clusters is 1000000000000", "1 to 1000"]),
        (["explore", "RUN", "--static", "RUN"], ["--static", "that is a folder"]),
        (["explore", "RUN", "--split", "val", "--data", "digits"], ["--split val"]),
        (["explore", "RUN", "--static", "no/such/folder/page.html"], ["page.html", "no folder"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]) -> None:
    """One line, exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"RUN": str(run), "TAKEN": str(taken.getsockname()[1])}
        if "--port" not in arguments:
            arguments = [*arguments, "--port", "0"]
        assert main([known.get(value, value) for value in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("moco: error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_without_its_extra(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr("moco.commands.explore.find_spec", lambda name: None if name == "uvicorn" else "there")
    assert main(["explore", str(run), *SHORT]) == 2
    assert "needs uvicorn: pip install 'momentum-contrast[explore]'" in capsys.readouterr().err


def test_a_run_that_cannot_keep_the_map(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is refused before its images are encoded."""
    (run / "evaluations").write_text("in the way", encoding="utf-8")
    assert main(["explore", str(run), *SHORT, "--static", str(run / "page.html")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "evaluations: cannot be written, and the map is stored there" in err


def test_the_trays_lists(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins are duplicates, a constant image is unusual, and what to label first is as many as are asked for."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    subject = Subject(moco.load_weights(str(tiny_run)), Encoding(16, (0.5,) * 3, (0.5,) * 3))
    pixels = torch.stack([load("digits")["train"][row] for row in range(30)])
    pixels[7], pixels[9] = pixels[3], 200
    images = ArrayImages(pixels)
    z = moco.encode(subject.encoder, images, subject.how).numpy()
    shown = explore._collection("digits", images, [subject])
    lists = explore._tray_lists(explore.Sight(images, shown, [Embedding("run", z, z[:, :2], z[:, 0], "")], subject))
    assert any({3, 7} <= set(group) for group in lists["duplicates"]())
    assert lists["outliers"]()[0].index(9) < 5
    (selection,) = lists["selection"]()
    assert sorted(selection) == list(range(30))
