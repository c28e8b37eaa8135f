"""A frame is made by whichever library is there."""

from types import SimpleNamespace
from typing import Any

import pytest

from moco.curation import frame as module
from moco.curation.frame import frame
from moco.errors import BadInputError

RESULT: dict[str, Any] = {"table": [{"path": "a.png", "similarity": 0.9}]}


@pytest.mark.parametrize(("installed", "taken"), [({"pandas", "polars"}, "pandas"), ({"polars"}, "polars")])
def test_pandas_else_polars(monkeypatch: pytest.MonkeyPatch, installed: set[str], taken: str) -> None:
    """The rows go to its DataFrame as they are."""
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in installed else None)
    libraries = {name: SimpleNamespace(DataFrame=lambda rows, name=name: (name, rows)) for name in installed}
    monkeypatch.setattr(module, "importlib", SimpleNamespace(import_module=libraries.__getitem__))
    assert frame(RESULT) == (taken, RESULT["table"])


def test_without_either_or_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to do."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match="needs pandas or polars"):
        frame(RESULT)
    with pytest.raises(BadInputError, match="this result has no table"):
        frame({"top1": 50.0})


def test_a_real_frame() -> None:
    """Has a column for each key."""
    pytest.importorskip("pandas")
    assert list(frame(RESULT).columns) == ["path", "similarity"]
