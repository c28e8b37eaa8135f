"""What takes long says what it is; what is quick says nothing."""

import contextlib
import io
import time

import pytest

from moco.runtime.phases import say_if_slow


def wait_for(capsys: pytest.CaptureFixture[str], said: str) -> str:
    """What was said on standard error, as soon as it holds `said`."""
    text, end = "", time.monotonic() + 20
    while said not in text and time.monotonic() < end:
        time.sleep(0.005)
        text += capsys.readouterr().err
    return text


def test_a_slow_phase_says_what_it_does_and_says_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, with the time that has passed, and although the work's own output is thrown away."""
    with say_if_slow("sorting 3 images", after=0.0, again=0.01), contextlib.redirect_stderr(io.StringIO()):
        text = wait_for(capsys, "sorting 3 images ... (0:00:00)\n")
    assert text.startswith("sorting 3 images ...\nsorting 3 images ... (0:00:00)\n")


def test_a_quick_phase_and_other_ranks_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the work fails."""
    with pytest.raises(ZeroDivisionError), say_if_slow("sorting", after=60.0):
        raise ZeroDivisionError
    monkeypatch.setenv("RANK", "1")
    with say_if_slow("sorting", after=0.0):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
