"""Published weights where they cannot be had: one line that says what to do."""

import hashlib
import http.client
import io
import socket
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from moco.cli import main
from moco.errors import BadInputError
from moco.interop.downloads import from_url
from moco.interop.published import torchvision_file

FILE = "resnet50-0676ba61.pth"


def failing(error: Exception) -> Callable[..., Any]:
    """In place of `urlopen`."""

    def urlopen(*_: object, **__: object) -> Any:
        assert socket.getdefaulttimeout() is not None  # a network that swallows everything must not hang us
        raise error

    return urlopen


class Cut(io.BytesIO):
    """An answer that ends too early."""

    def info(self) -> http.client.HTTPMessage:
        """Without a length."""
        return http.client.HTTPMessage()

    def read(self, size: int | None = -1) -> bytes:
        """No bytes."""
        raise http.client.IncompleteRead(b"")


class Page(Cut):
    """An answer that is something else, as of a hotel's network."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [b"<html>", b""]

    def read(self, size: int | None = -1) -> bytes:
        """A page that asks to log in."""
        return self.parts.pop(0)


FAULTS = {
    "no network": failing(urllib.error.URLError("Name or service not known")),
    "not there": failing(urllib.error.HTTPError("https://x", 404, "Not Found", http.client.HTTPMessage(), None)),
    "timed out": failing(TimeoutError()),
    "cut off": lambda *_, **__: Cut(),
    "another file": lambda *_, **__: Page(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """Exit code 2 and one line: what, why, and where the file is looked for; nothing is left of it."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # tyro marks what must be given in its own way
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", FAULTS[fault])
    assert main(["knn", "--weights", "torchvision:resnet50", "--data", "digits", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    place = tmp_path / "hub" / "checkpoints" / FILE
    assert error.startswith(f"moco: error: --weights torchvision:resnet50: https://download.pytorch.org/models/{FILE}")
    assert error.endswith(f"put the file at {place}\n")
    assert error.count("\n") == 1
    assert "()" not in error
    assert not list(place.parent.iterdir())
    assert socket.getdefaulttimeout() is None


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is reported as a download that fails."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInputError, match=r"cannot be fetched \(.*Not a directory.*put the file at"):
        torchvision_file("torchvision:resnet50")


def test_a_file_that_was_put_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the message says, without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", FAULTS["no network"])
    content = b"weights"
    name = f"resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    place = tmp_path / "hub" / "checkpoints" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert from_url(f"https://download.pytorch.org/models/{name}", "--weights torchvision:resnet50") == place


def test_another_file_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is read: its digest is not the one in its name."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / FILE
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    with pytest.raises(BadInputError, match=rf"{FILE} is damaged or another file, .* not with 0676ba61: remove it"):
        torchvision_file("torchvision:resnet50")
    assert place.read_bytes() == b"weights"
