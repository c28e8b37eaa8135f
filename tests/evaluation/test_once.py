"""What follows from images is computed once for each set of weights, images and settings."""

from pathlib import Path

import pytest
import torch

from moco.errors import BadInputError
from moco.evaluation.once import FOLDER, Kept, compute_once


def test_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dependency computes anew, and so does a damaged file."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    calls = []

    def compute() -> Kept:
        calls.append(1)
        return {"x": torch.arange(3)}, {"note": "n"}

    for about, count in [({"a": 1}, 1), ({"a": 1}, 1), ({"a": 2}, 2)]:
        tensors, more = compute_once(about, compute)
        assert tensors["x"].tolist() == [0, 1, 2]
        assert more["note"] == "n"
        assert len(calls) == count
    for path in (tmp_path / FOLDER).iterdir():
        path.write_bytes(b"")
    compute_once({"a": 1}, compute)
    assert len(calls) == 3


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told before anything is computed."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "file"))
    with pytest.raises(BadInputError, match="cannot be written, and features are kept there"):
        compute_once({}, lambda: pytest.fail("computed"))
