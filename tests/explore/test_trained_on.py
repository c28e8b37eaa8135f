"""What a run was trained on is read from its settings."""

import json
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.explore.trained_on import data_of, excluded_by, most_pixels_of
from tests.report.folders import write_run


def test_its_settings_say_it(tmp_path: Path) -> None:
    """The images, what was left out of them, and how large they might be."""
    run = write_run(tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    assert (excluded_by(run), most_pixels_of(run)) == ((), None)
    settings |= {"data": str(tmp_path), "exclude": ["a*", "b*"], "most_pixels": 100}
    (run / "config.json").write_text(json.dumps(settings))
    assert (data_of(run), excluded_by(run), most_pixels_of(run)) == (str(tmp_path), ("a*", "b*"), 100)


def test_images_that_are_gone(tmp_path: Path) -> None:
    """It says what to do."""
    run = write_run(tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**settings, "data": str(tmp_path / "gone")}))
    with pytest.raises(BadInputError, match=r"gone\) are no longer there: give --data"):
        data_of(run)


def test_an_encoder_alone(tmp_path: Path) -> None:
    """A folder without settings left nothing out."""
    assert (excluded_by(tmp_path), most_pixels_of(tmp_path)) == ((), None)
