"""`moco resume` goes on with the command that a run's config names, and with runs from before it was named."""

import json
from pathlib import Path
from typing import Any

import pytest

from moco.commands import resume as command
from moco.commands.resume import run as resume
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig, ResumeConfig
from moco.pretraining.recipes import recipe
from moco.runtime.configfile import read_command, to_json
from moco.transfer.config import TransferConfig
from moco.transfer.recipes import transfer_config

CONFIGS: dict[str, Any] = {
    "pretrain": recipe("quick", data="digits", out=Path("run")),
    "transfer": transfer_config("voc-semantic", weights="random", data="voc", out=Path("run")),
}


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The commands that were run, each with its config; none trains."""
    found: list[tuple[str, Any]] = []
    for name in CONFIGS:

        def run(config: Any, name: str = name) -> dict[str, Any]:
            found.append((name, config))
            return {}

        monkeypatch.setattr(getattr(command, name), "run", run)
    return found


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_of_a_run_goes_on(tmp_path: Path, resumed: list[tuple[str, Any]], name: str, named: bool) -> None:
    """A run is not known by its settings; but one from before its command was written is."""
    (tmp_path / "config.json").write_text(to_json(CONFIGS[name], name if named else None))
    resume(ResumeConfig(tmp_path, workers=3))
    ((ran, config),) = resumed
    assert ran == name
    assert isinstance(config, PretrainConfig if name == "pretrain" else TransferConfig)
    assert (config.out, config.workers) == (tmp_path, 3)


@pytest.mark.parametrize("name", ["knn", "", "rm -rf", 3, None, ["pretrain"]])
def test_another_command_is_refused(tmp_path: Path, resumed: list[tuple[str, Any]], name: object) -> None:
    """In one line that names the file; nothing is run."""
    values = {**json.loads(to_json(CONFIGS["pretrain"])), "command": name}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadInputError, match=r"config\.json: a run of .*: expected one of pretrain or transfer"):
        resume(ResumeConfig(tmp_path))
    assert resumed == []


def test_the_command_stands_before_the_settings(tiny_run: Path) -> None:
    """In the config of a real run."""
    content = (tiny_run / "config.json").read_text()
    assert list(json.loads(content))[:3] == ["version", "command", "data"]
    assert read_command(content, tiny_run / "config.json") == "pretrain"
