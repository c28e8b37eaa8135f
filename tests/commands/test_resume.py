"""`moco resume` goes on with the command that a run's config names, and with runs from before it was named."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.commands import pretrain
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
    "transfer": transfer_config("voc-semantic", weights="random", data=".", out=Path("run")),
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
    with pytest.raises(BadInputError, match=r"config\.json: a run of .*: only runs of pretrain and transfer"):
        resume(ResumeConfig(tmp_path))
    assert resumed == []


def test_the_command_stands_before_the_settings(tiny_run: Path) -> None:
    """In the config of a real run."""
    content = (tiny_run / "config.json").read_text()
    assert list(json.loads(content))[:3] == ["version", "command", "data"]
    assert read_command(content, tiny_run / "config.json") == "pretrain"


# --- data that was moved --------------------------------------------------------------------------------------------


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PretrainConfig, Path]:
    """A run of one step on 40 images given by a relative path, and the folder where the images lie now."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "old").mkdir()
    for i in range(40):
        PillowImage.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "old" / f"{i:02}.png")
    config = recipe(
        "quick", data="old", out=tmp_path / "run", arch="resnet10-w4", image_size=16, batch_size=16, queue_size=32,
        max_steps=1, knn_every=0, workers=0, threads=1, device="cpu", init="kaiming",
    )  # fmt: skip
    pretrain.run(config)
    (tmp_path / "old").rename(tmp_path / "new")
    return config, tmp_path / "new"


def stored(run: Path) -> str:
    """Where a run says that its images are."""
    return str(json.loads((run / "config.json").read_text())["data"])


def unfinished(run: Path) -> None:
    """Let a finished run look like one that was killed."""
    (run / "status.json").write_text('{"state": "running"}')


def test_a_run_goes_on_where_its_images_were_moved(moved: tuple[PretrainConfig, Path]) -> None:
    """By `resume --data` and by the same command with another --data; the new place is kept, and absolute."""
    config, new = moved
    assert stored(config.out) == str(new.with_name("old"))
    unfinished(config.out)
    with pytest.raises(BadInputError, match="give --data"):
        resume(ResumeConfig(config.out))
    resume(ResumeConfig(config.out, data="new"))
    assert stored(config.out) == str(new)
    new.rename(new.with_name("newer"))
    assert pretrain.run(dataclasses.replace(config, data="newer"))["already_done"]
    assert stored(config.out) == str(new.with_name("newer"))


def test_other_images_are_refused(moved: tuple[PretrainConfig, Path]) -> None:
    """Whether the run is finished or not; nothing is changed."""
    config, new = moved
    (new / "00.png").unlink()
    for end in (False, True):
        if end:
            unfinished(config.out)
        with pytest.raises(BadInputError, match="not those that it began with"):
            resume(ResumeConfig(config.out, data=str(new)))
        assert stored(config.out) == str(new.with_name("old"))
