"""A request to stop is noted once; afterwards, and for a second one, everything is as it was."""

import signal

import pytest

from moco.runtime.signals import StopRequest


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_a_signal_is_noted(number: signal.Signals) -> None:
    """The process goes on, and knows that it was asked to stop."""
    with StopRequest() as request:
        assert not request.noted
        signal.raise_signal(number)
        assert request.noted


def test_nothing_is_noted_without_a_signal() -> None:
    """Entering again forgets the request before."""
    request = StopRequest()
    with request:
        signal.raise_signal(signal.SIGINT)
    with request:
        assert not request.noted


def test_a_second_signal_does_what_it_did() -> None:
    """After the first signal the handlers from before are back, so a second Ctrl-C interrupts."""
    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
        assert {number: signal.getsignal(number) for number in StopRequest.SIGNALS} == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


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
