"""A file that is read for long is named, once, and after a longer while given up by who loads images."""

import threading
import time

import pytest

from moco.data import stalls
from moco.data.ahead import load_ahead, watch_loading
from moco.data.stalls import watch_read


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch of its own, whose minutes are fractions of a second."""
    monkeypatch.setattr(stalls, "_watch", stalls._Watch())
    monkeypatch.setattr(stalls, "SAY_AFTER", 0.04)


def test_a_file_that_stalls_is_named_once(capfd: pytest.CaptureFixture[str]) -> None:
    """By each thread that waits; what is read in time is not named."""

    def wait(name: str, seconds: float) -> None:
        with watch_read(name):
            time.sleep(seconds)

    for _ in range(100):
        wait("quick.jpg", 0.0)
    threads = [threading.Thread(target=wait, args=[name, 0.4]) for name in ("slow\n.jpg", "slower.jpg")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = capfd.readouterr().err.splitlines()
    assert sorted(line.partition(": has been read for")[0] for line in said) == [
        "moco: warning: slow .jpg", "moco: warning: slower.jpg",
    ]  # fmt: skip


def wait_for_ever(item: int) -> int:
    """Read a file whose server is gone."""
    if item:
        with watch_read("far/away.jpg"):
            time.sleep(1000)
    return item


def test_a_process_that_loads_images_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends by an error that names the file."""
    monkeypatch.setattr(stalls, "GIVE_UP_AFTER", 0.1)
    with (
        pytest.raises(ChildProcessError, match=r"was lost: far/away.jpg: has been read for .* file system"),
        watch_loading(),
    ):
        list(load_ahead(wait_for_ever, [0, 1], workers=1))
