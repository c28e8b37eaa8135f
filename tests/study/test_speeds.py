"""What is measured before the first cell."""

from pathlib import Path

import pytest
from PIL import Image as PillowImage

from moco.errors import BadInputError
from moco.study.config import StudyConfig
from moco.study.speeds import measure_speeds


def test_images_without_labels(tmp_path: Path) -> None:
    """Are refused before the first cell, and not by the evaluation of the first cell."""
    for name in range(3):
        PillowImage.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(BadInputError, match="needs labels"):
        measure_speeds(StudyConfig("momentum", str(tmp_path), tmp_path / "S"), tmp_path, "")
