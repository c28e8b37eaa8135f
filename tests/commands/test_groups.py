"""`moco groups` from set to table and page."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moco.commands.groups import read_group_count, run
from moco.curation.config import GroupsConfig
from moco.errors import BadInputError

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "split": "test"}


def test_from_set_to_page(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is in one group, each group has a name by its labels, random weights stand beside."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    out = tmp_path / "out"
    result = run(GroupsConfig(str(tiny_run), "digits", out, k="6", representatives=3, **CPU))
    assert sum(group["size"] for group in result["groups"]) == 360
    assert [group["size"] for group in result["groups"]] == sorted(
        (group["size"] for group in result["groups"]), reverse=True
    )
    assert all(len(group["representatives"]) == 3 for group in result["groups"])
    assert {group["label"] for group in result["groups"]} <= set("0123456789")
    assert result["purity"] > 10
    assert result["baselines"]["random"]["k"] == 6
    assert len((out / "groups.csv").read_text().splitlines()) == 361
    assert "Group 1: " in (out / "groups.html").read_text()


def test_the_number_of_groups() -> None:
    """Auto, or from 2 to 1000."""
    assert read_group_count("auto") is None
    assert read_group_count("12") == 12
    for wrong in ("1", "1001", "many", "-3", "9" * 30, "²"):
        with pytest.raises(BadInputError, match="expected auto, or a number from 2 to 1000"):
            read_group_count(wrong)


@pytest.mark.parametrize(("k", "silhouette", "said"), [("auto", 0.01, True), ("auto", 0.4, False), ("2", 0.01, False)])
def test_vague_groups_are_said(
    k: str, silhouette: float, said: bool, tiny_run: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A number that was chosen from groups that are not apart says so."""
    monkeypatch.setattr(
        "moco.commands.groups.divide_images", lambda z, *_: (torch.arange(len(z)).numpy() % 2, silhouette)
    )
    run(GroupsConfig(str(tiny_run), "digits", k=k, **CPU))
    text = capsys.readouterr().out
    assert ("no clear groups" in text) is said
    assert f"silhouette {silhouette:.3f} (1: far apart, 0: not apart)" in text
