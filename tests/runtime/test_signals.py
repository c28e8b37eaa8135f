"""A request to stop is noted; one that comes later than its echo does what it always did."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from moco.runtime import signals
from moco.runtime.signals import StopRequest, WaitEnded, terminate_as_interrupt


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


@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2])
def test_a_scheduler_may_warn_again(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """SIGXCPU comes with every further second of computing; Grid Engine and LSF send SIGUSR2 before they kill."""
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
    with StopRequest() as request:
        for _ in range(3):
            signal.raise_signal(number)
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


def test_a_wait_ends_at_once() -> None:
    """Where nothing is under way that must be ended first: inside, and before what begins later."""
    with StopRequest() as request:
        with pytest.raises(WaitEnded), request.waiting():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(WaitEnded), request.waiting():
            raise AssertionError("was begun")


def test_a_step_is_made_before_the_next_is_waited_for() -> None:
    """A signal between two items lets the loop decide; the next wait ends."""
    made = list[int]()

    def loop(request: StopRequest) -> None:
        for item in request.between(range(5)):
            if item == 2:
                signal.raise_signal(signal.SIGTERM)
            made.append(item)

    with StopRequest() as request, pytest.raises(WaitEnded):
        loop(request)
    assert made == [0, 1, 2]


def test_what_ends_by_itself_is_no_request() -> None:
    """All items come, and so does what their source raises."""
    with StopRequest() as request:
        assert list(request.between([1, 2])) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            list(request.between(1 // item for item in [0]))


def test_a_wait_that_swallows_the_end_is_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the signal comes inside a callback of a library."""
    monkeypatch.setattr(signals, "URGE_EVERY", 0.01)

    def swallow() -> None:
        with contextlib.suppress(WaitEnded):
            signal.raise_signal(signal.SIGTERM)
        time.sleep(30)

    with StopRequest() as request, pytest.raises(WaitEnded), request.waiting():
        swallow()


def test_several_processes_wait_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop after the same step if they can."""
    monkeypatch.setattr(signals, "URGE_EVERY", 0.01)
    monkeypatch.setattr(signals, "PATIENCE", 0.3)
    with StopRequest(together=True) as request:
        signal.raise_signal(signal.SIGTERM)
        assert list(request.between([1, 2])) == [1, 2]
        began = time.monotonic()
        with pytest.raises(WaitEnded), request.waiting():
            time.sleep(30)
        assert time.monotonic() - began < 20


def test_a_signal_that_was_blocked_is_noted() -> None:
    """As by a launcher that blocks it, waits for it in a thread of its own, and starts a process meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.noted
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stays_one_whatever_a_library_makes_of_it(number: int) -> None:
    """Compiled code may replace what a handler raised by an error of its own; other errors stay as they are."""
    before = signal.getsignal(number)

    def read() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        read()
    with pytest.raises(ValueError, match="shape"), terminate_as_interrupt():
        raise ValueError("could not determine the shape")
    assert signal.getsignal(number) is before
