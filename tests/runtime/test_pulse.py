"""Which errors are taken for those of a collective; what is said of it is tested with real ranks in tests/faults."""

import pytest

from moco.errors import DivergedError, StalledError
from moco.runtime import pulse


@pytest.mark.parametrize("kind", [DivergedError, StalledError])
def test_what_has_been_told_is_not_told_again(kind: type[RuntimeError]) -> None:
    """Though a folder may be called socket, and a stall speaks of a time-out."""
    with pytest.raises(kind, match=r"^runs/socket: timed out$"), pulse.watch_collectives(0, 2):
        raise kind("runs/socket: timed out")


@pytest.mark.parametrize(("message", "ranks"), [("shapes differ", 2), ("Connection closed by peer", 1)])
def test_other_errors_pass(message: str, ranks: int) -> None:
    """Those that no collective raises, and all where there is one process."""
    with pytest.raises(RuntimeError, match=f"^{message}$"), pulse.watch_collectives(0, ranks):
        raise RuntimeError(message)
