"""`moco select` from set to list, with what is labelled already left out."""

from pathlib import Path
from typing import Any

import pytest

from moco.commands.select import run
from moco.curation.config import SelectConfig, SelectionMethod
from moco.errors import BadInputError

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "split": "test"}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are kept for all tests of the session."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path_factory.getbasetemp() / "features-of-digits"))


@pytest.mark.parametrize("method", ["typical", "spread", "random"])
def test_what_is_labelled_is_left_out(
    tiny_run: Path, tmp_path: Path, method: SelectionMethod, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the second round no image of the first comes again; baselines stand beside."""
    first = run(SelectConfig(str(tiny_run), "digits", tmp_path / "out", n=12, method=method, **CPU))
    assert len(set(first["paths"])) == 12
    said = capsys.readouterr().out
    listed = f"\nimages to label, the first 10 of 12; --out writes all:\n  1. {first['paths'][0]}\n"
    nearest = f"image has a similarity of {1 - first['mean_distance']:.4f} on average\nfor comparison, random w"
    assert said.startswith(f"{tiny_run}: 12 images of ")
    assert 0 < said.find(nearest) < said.find(listed)
    chosen = tmp_path / "out" / "select.txt"
    assert chosen.read_text().splitlines() == first["paths"]
    chosen.write_text("\n".join(f"{path},seven" for path in first["paths"]))
    second = run(SelectConfig(str(tiny_run), "digits", n=12, method=method, labelled=chosen, **CPU))
    assert not set(first["paths"]) & set(second["paths"])
    assert second["mean_distance"] < first["mean_distance"]
    names = {"random weights"} if method == "random" else {"random weights", "random choice"}
    assert set(first["baselines"]) == names
    assert "What to label first" in (tmp_path / "out" / "select.html").read_text()


def test_mistakes(tiny_run: Path, tmp_path: Path) -> None:
    """A list that is not there, and one that names other images."""
    with pytest.raises(BadInputError, match=r"--labelled gone\.txt: no such file"):
        run(SelectConfig(str(tiny_run), "digits", labelled=Path("gone.txt"), **CPU))
    (tmp_path / "list.txt").write_text("#0\n#9999\n")
    with pytest.raises(BadInputError, match="#9999 is no image of --data digits"):
        run(SelectConfig(str(tiny_run), "digits", labelled=tmp_path / "list.txt", **CPU))
