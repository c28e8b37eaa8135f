"""The fuzzer itself: it makes its files, damages them and reads them back."""

import warnings
from pathlib import Path

import jaxtyping
import pytest

from moco.data import folder
from scripts import fuzz
from scripts.fuzz_readers import Seeds


def test_a_case_of_every_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader opens a damaged file, and succeeds or refuses it in one line."""
    for name in ("MOCO_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)  # command lines are run in a folder of their own, without checks of shapes
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(folder, "LARGE", 0)  # so that the index of a small folder is kept, and then damaged
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = Seeds(tmp_path)
        seeds.make()
        outcomes = {name: fuzz.run_case(reader, seeds, name, 0, 0, tmp_path) for name, reader in fuzz.READERS.items()}
    assert not {name: found for name, found in outcomes.items() if found[0] not in ("read", "refused")}
