"""What is collected over steps until it is logged."""

import pytest
import torch

from moco.runtime.recent import Recent


def test_recent_gives_means_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over what was added since the last summary; the speed does not count pauses, and the waits are a share."""
    clock = iter([0.0, 1.0, 4.0, 10.0, 14.0, 16.0, 17.0, 17.0, 20.0])  # a wait of 3 s, a pause of 4; 12 s for 3 steps
    monkeypatch.setattr("moco.runtime.recent.time.monotonic", lambda: next(clock))
    recent = Recent(4)
    for value in (1.0, 2.0, 6.0):
        recent.add({"loss": torch.tensor(value)})
    batches = recent.waiting(iter("a"))
    assert next(batches) == "a"
    with recent.paused():
        pass
    also = {"unknown": torch.tensor(torch.nan), "share": torch.tensor(0.5)}
    assert recent.summary(7, also) == ({"loss": 3.0, "share": 0.5}, 3 / 12, 25.0)
    recent.add({"loss": torch.tensor(7.0)})
    assert list(batches) == []
    assert recent.summary(9) == ({"loss": 7.0}, 2 / 4, 0.0)


def test_recent_collects_nothing_where_nothing_is_logged() -> None:
    """A run of days without a log must not gather its losses."""
    recent = Recent(0, active=False)
    recent.add({"loss": torch.tensor(1.0)})
    assert recent._figures == []
