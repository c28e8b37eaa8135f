"""`moco check` lists every image that cannot be read, and nothing else."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from moco.cli import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two splits with three images that can be read and three that cannot."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for i in range(3):
            PillowImage.new("RGB", (4, 4)).save(tmp_path / split / f"{i}.png")
    (tmp_path / "train" / "1.png").write_bytes(b"<html>")
    (tmp_path / "train" / "a,b\n.png").write_bytes(b"")
    (tmp_path / "test" / "2.png").write_bytes((tmp_path / "test" / "0.png").read_bytes()[:40])
    return tmp_path


def test_all_unreadable_images_are_listed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With split, path and reason: printed, as JSON, and as a table that any reader of CSV takes."""
    out = photos.parent / "bad.csv"
    assert main(["check", "--data", str(photos), "--out", str(out), "--workers", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = [("train", "1.png"), ("train", "a,b\n.png"), ("test", "2.png")]
    assert [(one["split"], one["path"]) for one in result["unreadable"]] == expected
    assert result["images"] == 7
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["path"]) for row in rows] == expected
    assert all("cannot be read" in row["reason"] for row in rows)


def test_a_sound_set(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is listed, and what is left out is not read."""
    assert main(["check", "--data", str(photos), "--exclude", "1.png", "--exclude", "a,b*", "--exclude", "2.png"]) == 0
    assert "2 images checked, 0 cannot be read" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_most_pixels_are_a_flag(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Larger images are listed, and the line names the flag."""
    PillowImage.new("RGB", (9, 9)).save(photos / "test" / "2.png")
    assert main(["check", "--data", str(photos / "test"), "--most-pixels", "80", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["unreadable"]
    assert one["path"] == "2.png"
    assert one["reason"].endswith("more than 80 pixels: make it smaller or remove it, or give a larger --most-pixels")


def test_images_of_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bands at full depth are read as pretrain reads them; those of other channels or without a number are listed."""
    rng = np.random.default_rng(0)
    for name, channels in (("0", 3), *((str(i), 4) for i in range(1, 8))):
        values = rng.normal(100, 5, (channels, 6, 6)).astype(np.float32)
        values[0, 2, 3] = np.nan if name == "6" else 1
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack", planarconfig="separate")
    (tmp_path / "7.tif").write_bytes((tmp_path / "7.tif").read_bytes()[:300])
    assert main(["check", "--data", str(tmp_path), "--workers", "1", "--json"]) == 0
    found = {one["path"]: one["reason"] for one in json.loads(capsys.readouterr().out)["unreadable"]}
    assert found.keys() == {"0.tif", "6.tif", "7.tif"}
    assert "3 channels of float, expected 4 channels of float" in found["0.tif"]
    assert "nan in channel 1, row 2, column 3" in found["6.tif"]
    assert main(["check", "--data", str(tmp_path), "--workers", "1", "--no-data", "nan", "--channels", "3"]) == 0
    assert "8 images checked, 7 cannot be read" in capsys.readouterr().out
