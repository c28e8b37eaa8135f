"""Run folders as a report reads them: damaged files are passed over, no run is refused."""

from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.report.runs import read_run
from tests.report.folders import gallery, write_run
from tests.report.test_page import parsed


def test_damaged_files_are_passed_over(tmp_path: Path) -> None:
    """A torn line of metrics, an evaluation cut off, one that is a list: the rest is shown, what is missing named."""
    folder = write_run(tmp_path / "run", evaluations={"knn": {"top1": 12.5}, "list": [1, 2]})
    (folder / "evaluations" / "cut.json").write_text('{"top1": 5')
    (folder / "status.json").write_bytes(b"\xff\xfe")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 999, "loss": NaN}\n{"step": 1000, "lo')
    run = read_run(folder)
    found = parsed(run)
    assert "cut.json could not be read" in found.text
    assert "list.json could not be read (expected a JSON object)" in found.text
    assert "status.json could not be read" in found.text
    assert ["kNN", "12.50%"] in [row[:2] for row in found.rows()]
    assert "1000" not in {row[1] for row in found.rows() if len(row) > 1}


def test_no_run(tmp_path: Path) -> None:
    """The message names the folder."""
    with pytest.raises(BadInputError, match=r"gone: no run to report, expected a folder with a config\.json"):
        read_run(tmp_path / "gone")


def test_images_without_labels_count(tmp_path: Path) -> None:
    """A run trains on those of train and of unlabeled."""
    splits = {"train": 100, "unlabeled": 1450, "test": 512}
    evaluations = {"gallery": {**gallery(["a"], ["x", "y"]), "splits": splits}}
    assert read_run(write_run(tmp_path / "run", evaluations=evaluations)).images == 1550
