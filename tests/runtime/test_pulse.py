"""Which errors are taken for those of a collective; what is said of it is tested with real ranks in tests/faults."""

import socket
import time

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


def test_a_store_that_left_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder ended: the others say so and end, too. They tried to reach it for up to a minute."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(pulse, "ASKING", 0.5)
    begun = time.monotonic()
    with pytest.raises(StalledError, match="the one that holds the store"), pulse.watch_collectives(1, 2):
        raise RuntimeError("[gloo.cc] Connection closed by peer")
    assert time.monotonic() - begun < pulse.MEETING / 2
