"""`moco outliers` from folder to table and page."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.commands.outliers import run
from moco.curation.config import OutliersConfig
from moco.data.catalog import load

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0}


def test_planted_faults(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A constant image stands first with its reason; labels, tables and the page are there, random weights beside."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    digits, out = load("digits")["train"], tmp_path / "out"
    assert digits.labels is not None
    for name in ("zero & <b>", "one"):
        (tmp_path / "d" / name).mkdir(parents=True)
    for label, name in enumerate(("zero & <b>", "one")):
        for row in np.flatnonzero(digits.labels == label)[:16].tolist():
            PillowImage.fromarray(digits[row].permute(1, 2, 0).numpy()).save(tmp_path / "d" / name / f"{row}.png")
    PillowImage.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "d" / "one" / "red.png")
    result = run(OutliersConfig(str(tiny_run), str(tmp_path / "d"), out, top=5, k=3, **CPU))
    said = capsys.readouterr().out
    assert said.startswith(f"{tiny_run}: 5 images with scores from ")
    listed = "\nthe 5 most unusual of 33 images, with reasons and a score (deviations from what is typical"
    assert 0 < said.find("\nfor comparison, random weights: 5 images with scores from ") < said.find(listed)
    assert result["images"][0]["path"] == "one/red.png"
    assert "nearly constant" in result["images"][0]["reasons"]
    assert "in colour among grey images" in result["images"][0]["reasons"]
    assert len(result["images"]) == 5 == len(result["baselines"]["random"]["images"])
    assert all({"path", "label", "neighbours"} <= one.keys() for one in result["labels"])
    table = list(csv.DictReader(io.StringIO((out / "outliers.csv").read_text())))
    assert [row["path"] for row in table if row["kind"] == "image"] == [one["path"] for one in result["images"]]
    assert (out / "outliers.txt").read_text().splitlines()[0] == str(tmp_path / "d" / "one" / "red.png")
    page = (out / "outliers.html").read_text()
    assert "<b>" not in page
    assert "nearly constant" in page
