"""A loss or a gradient that is no number, on one rank only (row 21)."""

import functools
from pathlib import Path

import pytest

from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.faults.injections import poison
from tests.faults.processes import command, saved_steps, start, status
from tests.slow import slow


@pytest.mark.parametrize(("what", "rank"), [("nan", 0), slow("inf", 1), ("gradient", 1)])
def test_one_rank_diverges(tmp_path: Path, what: str, rank: int) -> None:
    """All ranks stop before the update, with exit code 3; the last good state is kept, and stays the last."""
    run = tmp_path / "run"
    inject = functools.partial(poison, rank, 5, what)
    training = start(command(run, checkpoint_every=2), tmp_path, ranks=2, inject=inject)
    assert training.exit_codes() == [3, 3], training.text()
    for each in (0, 1):
        said = training.text(each).splitlines()[-1]
        assert said.startswith(f"moco: error: {run}: loss ")
        assert " at step 5: the last good checkpoint is kept; start again with a smaller --lr (now 0.0075)" in said
    assert (status(run)["state"], status(run)["step"], status(run)["exit_code"]) == ("diverged", 5, 3)
    assert saved_steps(run) == [4, 2]
    tensors = load_tensors(checkpoint_path(run, 4))[0]
    assert all(bool(value.isfinite().all()) for value in tensors.values() if value.is_floating_point())
    if what == "nan":  # however it diverged, the status says so
        again = start(command(run, checkpoint_every=2), tmp_path, ranks=2)
        assert again.exit_codes() == [3, 3]
        assert "diverged at step 5" in again.text()
