"""`moco search` finds an image by its file, by its number and by several files together."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from moco.commands import curate
from moco.commands.search import run
from moco.curation import neighbours
from moco.curation.config import SearchConfig
from moco.data.catalog import load
from moco.errors import BadInputError

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits of a few digits."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    for split, images in load("digits").items():
        (tmp_path / "d" / split).mkdir(parents=True)
        for row in range(8):
            PillowImage.fromarray(images[row].permute(1, 2, 0).numpy()).save(tmp_path / "d" / split / f"{row}.png")
    return tmp_path / "d"


def test_by_file_number_and_several_files(tiny_run: Path, folder: Path, tmp_path: Path) -> None:
    """A file finds itself by its path below --data, in whichever split; a number finds only others."""
    by_file = run(SearchConfig(str(tiny_run), str(folder), image=folder / "test" / "3.png", k=4, **CPU))
    assert by_file["neighbours"][0]["path"] == "test/3.png"
    assert by_file["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert len(by_file["neighbours"]) == 4 == len(by_file["baselines"]["random"]["neighbours"])
    by_number = run(SearchConfig(str(tiny_run), str(folder), tmp_path / "out", index=11, k=3, **CPU))
    for found, expected in zip(by_number["neighbours"], by_file["neighbours"][1:], strict=True):  # train has 8 before
        assert found == {**expected, "similarity": pytest.approx(expected["similarity"], abs=2e-4)}
    assert (tmp_path / "out" / "search.txt").read_text().startswith(str(folder))
    files = (folder / "test" / "3.png", folder / "train" / "0.png")
    together = run(SearchConfig(str(tiny_run), str(folder), near=files, k=4, baseline=False, **CPU))
    assert {one["path"] for one in together["neighbours"]} >= {"test/3.png", "train/0.png"}


def test_by_an_index(tiny_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Above a number of images it is built once and kept, and its recall is printed; the neighbours are the same."""
    pytest.importorskip("faiss")
    config = SearchConfig(str(tiny_run), str(folder), index=11, k=3, baseline=False, **CPU)
    exact = run(config)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 10)
    found = run(config)
    assert "approximate search finds" in capsys.readouterr().out
    assert (found["neighbours"], found["recall"]) == (exact["neighbours"], 1)
    monkeypatch.setattr(curate, "build_index", None)
    assert run(config) == found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "no query: expected one of --image FILE, --index N and --near FILE FILE"),
        ({"index": 0, "near": (Path("a"),)}, "--index and --near: expected one of"),
        ({"index": 99}, "--index 99: --data .* has 16 readable images"),
        ({"image": Path("gone.png")}, r"gone\.png: cannot be read"),
    ],
    ids=str,
)
def test_mistakes(tiny_run: Path, folder: Path, flags: dict[str, Any], message: str) -> None:
    """Are one line."""
    with pytest.raises(BadInputError, match=message):
        run(SearchConfig(str(tiny_run), str(folder), baseline=False, **flags, **CPU))
