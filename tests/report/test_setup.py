"""The settings of a run beside those of the closest recipe."""

from pathlib import Path

from moco.report.runs import read_run
from tests.report.folders import write_run
from tests.report.test_page import parsed


def test_settings_against_the_recipe(tmp_path: Path) -> None:
    """Only what departs from the closest recipe is listed, in bold, with the recipe's value."""
    found = parsed(read_run(write_run(tmp_path / "run", temperature=0.25, epochs=7)))
    listed = {row[0]: row[1:] for row in found.tables[1][1:]}
    assert listed == {"--temperature": ["0.25", "0.1 (quick)"], "--epochs": ["7", "5 (quick)"]}
    assert len(found.tables[2]) > 40  # all of them
    unchanged = parsed(read_run(write_run(tmp_path / "same")))
    assert "Every setting is that of the recipe quick." in unchanged.text
