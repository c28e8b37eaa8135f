"""Weights from huggingface.co and exports to it, by the real library and a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from moco.commands.export import run as export
from moco.errors import BadInputError, VoidError
from moco.interop.checkpoints import load_weights
from moco.interop.config import ExportConfig
from moco.runtime.hub import hub_errors, parse_address
from tests.fakehub import FakeHub, fake_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without repositories, and an empty cache."""
    with fake_hub(monkeypatch, tmp_path / "cache") as started:
        yield started


def same_features(one: str, other: str) -> None:
    """Two encoders give the same features."""
    x, found = torch.rand(2, 3, 16, 16), [load_weights(weights) for weights in (one, other)]
    with torch.no_grad():
        first, second = (weights.encoder.backbone.eval()(x) for weights in found)
    assert torch.equal(first, second)
    assert (found[0].mean, found[0].std) == (found[1].mean, found[1].std)


def refusal(weights: str) -> str:
    """What is said against weights, in one line."""
    with pytest.raises(BadInputError) as caught:
        load_weights(weights)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own, without hf_xet
def test_pushed_and_used_again(tmp_path: Path, tiny_run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported folder goes to a private repository, whole, and is weights from there; later from the cache."""
    config = ExportConfig(str(tiny_run), "safetensors", tmp_path / "out", push="me/tiny")
    assert export(config)["pushed"].endswith("/me/tiny/commit/" + "c" * 40)
    there = hub.repositories["models/me/tiny"]
    here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there == here
    assert hub.private == {"models/me/tiny": True}
    same_features("hf://me/tiny", str(tiny_run))
    same_features("hf://me/tiny@main/model.safetensors", str(tiny_run))
    hub.asked.clear()
    same_features("hf://me/tiny", str(tiny_run))
    assert not [asked for asked in hub.asked if "model.safetensors" in asked]
    monkeypatch.setattr(hub, "damaged", True)
    with pytest.raises(VoidError, match="another digest there than here"):
        export(ExportConfig(str(tiny_run), "safetensors", tmp_path / "second", push="me/tiny"))


def test_a_push_that_is_refused(tmp_path: Path, tiny_run: Path, hub: FakeHub) -> None:
    """One line with what to do; the export itself stays."""
    hub.token = "another"
    with pytest.raises(BadInputError, match="log in with hf auth login") as caught:
        export(ExportConfig(str(tiny_run), "safetensors", tmp_path / "out", push="me/tiny"))
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(BadInputError, match="expected OWNER/NAME"):
        export(ExportConfig(str(tiny_run), "safetensors", tmp_path / "other", push="tiny"))
    assert not (tmp_path / "other").exists()


def test_weights_in_pieces(tmp_path: Path, tiny_run: Path, hub: FakeHub) -> None:
    """All pieces that an index names are fetched, and none from elsewhere."""
    export(ExportConfig(str(tiny_run), "safetensors", tmp_path / "out"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    index = {"weight_map": {"all": "../../model.safetensors"}}
    hub.repositories["models/a/b"] = {"model.safetensors.index.json": json.dumps(index).encode(), **files}
    del hub.repositories["models/a/b"]["model.safetensors"]
    assert "no index of weights" in refusal("hf://a/b")


def test_what_cannot_be_had(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each: no repository, no weights in it, damaged on the way, no network, no address."""
    assert "hf://no/thing: cannot be fetched" in refusal("hf://no/thing")
    hub.repositories["models/a/b"] = {"README.md": b"words", "model.bin": b"x" * 2000}
    assert "the repository has no file called encoder.safetensors" in refusal("hf://a/b")
    assert "the repository has no file gone.pth" in refusal("hf://a/b/gone.pth")
    hub.damaged = True
    assert "is damaged, its SHA-256 is" in refusal("hf://a/b/model.bin")
    hub.shutdown()
    hub.server_close()
    assert "is there a network?" in refusal("hf://a/c")
    for address in (
        "hf://", "hf://a", "hf://a/b/../c", "hf://a/b@", "hf://../..", "hf://-a/b", "hf://a/b-", "hf://a/b.git",
        "hf://a--b/c", "hf://a..b/c", f"hf://a/{'b' * 97}",
    ):  # fmt: skip
        with pytest.raises(BadInputError, match="expected hf://OWNER/NAME"):
            parse_address(address, "--weights")
    assert "a data set: give it as --data" in refusal("hf://datasets/a/b")
    assert issubclass(HfHubHTTPError, hub_errors())
