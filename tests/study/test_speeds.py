"""What is measured before the first cell."""

from pathlib import Path

import pytest
from PIL import Image as PillowImage

from moco.errors import BadInputError
from moco.study import speeds
from moco.study.config import StudyConfig
from moco.study.speeds import measure_speeds


def test_images_without_labels(tmp_path: Path) -> None:
    """Are refused before the first cell, and not by the evaluation of the first cell."""
    for name in range(3):
        PillowImage.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(BadInputError, match="needs labels"):
        measure_speeds(StudyConfig("momentum", str(tmp_path), tmp_path / "S"), tmp_path, "")


def test_images_without_labels_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs train on those of `unlabeled/`, too."""
    for number in range(60):
        part = "unlabeled" if number >= 40 else f"train/{number % 2}"
        (tmp_path / part).mkdir(parents=True, exist_ok=True)
        PillowImage.new("RGB", (8, 8)).save(tmp_path / part / f"{number}.png")
    monkeypatch.setattr(speeds, "_rate", lambda *_: 1.0)
    monkeypatch.setattr(speeds, "_encoded_per_second", lambda *_: 1.0)
    found = speeds._measure_speeds(StudyConfig("momentum", str(tmp_path), tmp_path / "S"))
    assert (found["images"], found["all_images"], found["tested"]) == (60, 60, 4)
