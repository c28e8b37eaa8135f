"""A request to stop is noted; one that comes later than its echo does what it always did."""

import signal
import threading
from collections.abc import Iterator

import pytest

from moco.runtime import signals
from moco.runtime.signals import StopRequest


@pytest.fixture(autouse=True)
def nothing_ignored() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and so would what is tested."""
    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_inherited_ignore_is_honoured() -> None:
    """Nohup means that a closed terminal ends nothing."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
        with StopRequest() as request:
            signal.raise_signal(number)
            assert not request.noted


def test_a_scheduler_may_warn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGXCPU comes with every further second of computing."""
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
    with StopRequest() as request:
        for _ in range(3):
            signal.raise_signal(signal.SIGXCPU)
        assert request.noted


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_a_signal_is_noted(number: signal.Signals) -> None:
    """The process goes on, and knows that it was asked to stop."""
    with StopRequest() as request:
        assert not request.noted
        signal.raise_signal(number)
        assert request.noted


def test_a_thread_takes_no_signals() -> None:
    """Only the main thread may: elsewhere there is nothing to note, and nothing fails."""
    noted = list[bool]()

    def enter() -> None:
        with StopRequest() as request:
            noted.append(request.noted)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert noted == [False]


def test_nothing_is_noted_without_a_signal() -> None:
    """Entering again forgets the request before."""
    request = StopRequest()
    with request:
        signal.raise_signal(signal.SIGINT)
    with request:
        assert not request.noted


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_an_echo_is_the_same_request(number: signal.Signals) -> None:
    """A scheduler's signal, which torchrun then hands on once more, does not end what is being saved."""
    with StopRequest() as request:
        for _ in range(3):
            signal.raise_signal(number)
        assert request.noted


def test_a_second_signal_does_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later one finds the handlers from before, so a second Ctrl-C interrupts."""
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
    started_with = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert {number: signal.getsignal(number) for number in StopRequest.SIGNALS} == before
    signal.signal(signal.SIGINT, started_with)


@pytest.mark.parametrize("failing", [False, True])
def test_handlers_are_restored(failing: bool) -> None:
    """Also where the run ended with an error, which is passed on."""
    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGINT) != before[signal.SIGINT]
            if failing:
                raise RuntimeError("a step failed")
    except RuntimeError:
        assert failing
    assert {number: signal.getsignal(number) for number in StopRequest.SIGNALS} == before


def test_where_nothing_can_be_saved_a_signal_does_what_it_always_did() -> None:
    """The first one, too."""
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(active=False) as request:
        assert signal.getsignal(signal.SIGINT) == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not request.noted
