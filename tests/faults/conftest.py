"""What the tests of faults share: runs that nothing disturbed, and an end to whatever is still running."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.processes import command, finish, kill_all

Whole = Callable[..., Path]
"""(ranks, flags) -> the folder of a run that nothing disturbed."""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Kill what a test has left running."""
    yield
    kill_all()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Undisturbed runs; each is made once."""
    made: dict[str, Path] = {}

    def make(ranks: int = 1, **flags: object) -> Path:
        name = f"{ranks} {sorted(flags.items())}"
        if name not in made:
            made[name] = tmp_path_factory.mktemp("whole") / "run"
            finish(command(made[name], **flags), made[name].parent, ranks=ranks)
        return made[name]

    return make
