"""Confusions and pictures of a report."""

from pathlib import Path

from moco.report.runs import read_run
from tests.report.folders import gallery, webp, write_run
from tests.report.test_page import parsed, whole


def test_confusions(tmp_path: Path) -> None:
    """In percent of the row, the class's own in bold; the table of `moco knn` goes before the gallery's."""
    full = whole(tmp_path / "run")
    found = parsed(full)
    rows = {row[0]: row[1:] for row in found.tables[-1]}
    assert rows["cat"] == ["100", "·"]
    assert rows["dog"] == ["25", "75"]
    (full.evaluations["knn"]).update(confusion=[[9, 1], [4, 6]], classes=["cat", "dog"])
    rows = {row[0]: row[1:] for row in parsed(full).tables[-1]}
    assert rows["cat"] == ["90", "10"]
    assert rows["dog"] == ["40", "60"]


def test_confusions_of_many_classes_are_a_list(tmp_path: Path) -> None:
    """The most frequent mistakes, by their share of the class."""
    classes = [f"class {i}" for i in range(30)]
    content = gallery(["a"], classes)
    content["confusion"] = [[10 * (i == j) + (7 * (j == 29) if i == 3 else 0) for j in range(30)] for i in range(30)]
    found = parsed(read_run(write_run(tmp_path / "run", evaluations={"gallery": content})))
    assert found.tables[-1][1:] == [["class 3", "class 29", "7", "41.18%"]]


def test_data_that_is_no_picture_is_not_shown_as_one(tmp_path: Path) -> None:
    """What stands where base64 should is dropped."""
    content = gallery(["a"], ["x", "y"])
    content["filters"]["images"] = ['"><script>alert(1)</script>', 7, None, webp()]
    found = parsed(read_run(write_run(tmp_path / "run", evaluations={"gallery": content})))
    assert sum(attributes.get("class") == "filter" for attributes in found.all("img")) == 1
    assert "alert" not in found.text
