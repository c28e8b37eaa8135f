"""A run goes on only with what it began with: the images of its partner, and its list of series."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moco.commands import pretrain, resume
from moco.errors import BadInputError
from moco.pretraining.config import ResumeConfig
from moco.pretraining.recipes import recipe
from tests.slow import slow

SMALL: dict[str, Any] = {
    "image_size": 12, "view_size": None, "batch_size": 4, "max_steps": 4, "arch": "resnet10-w4", "log_every": 1,
    "checkpoint_every": 2, "knn_every": 0, "bn_groups": 2, "threads": 1, "device": "cpu", "precision": "fp32",
    "workers": 0, "init": "kaiming", "optimizer": "sgd",
}  # fmt: skip


def unfinished(run: Path) -> None:
    """Let a finished run of four steps look like one that was killed after its second."""
    (run / "status.json").write_text('{"state": "running"}')
    (run / "checkpoints" / "000000004.safetensors").unlink()


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of 12 small pictures each, by the same names."""
    drawn = np.random.default_rng(0)
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        for number in range(12):
            pixels = drawn.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number:02}.png")
    return tmp_path / "one", tmp_path / "other"


def brighten(folder: Path) -> None:
    """Save the fourth picture with other pixels."""
    with Image.open(folder / "03.png") as image:
        pixels = np.asarray(image)
    Image.fromarray(255 - pixels).save(folder / "03.png")


PARTNER = "the images of --partner are not those that it began with (12 images of --partner then, "


@pytest.mark.parametrize(
    ("encoder", "change", "what"),
    [
        ("shared", brighten, f"{PARTNER}12 now: 1 changed, the first 03.png)"),
        ("own", lambda folder: shutil.copy(folder / "03.png", folder / "20.png"), f"{PARTNER}13 now: 1 added, the"),
    ],
    ids=["shared", "own"],
)
def test_a_changed_partner_is_noticed(
    two_folders: tuple[Path, Path], tmp_path: Path, encoder: str, change: Callable[[Path], object], what: str
) -> None:
    """The run does not go on, and says what changed; once accepted, the images of now are what is expected."""
    data, partner = two_folders
    small = {**SMALL, "symmetric": True, "partner": str(partner)}
    run = tmp_path / "run"
    pretrain.run(recipe("quick", data=str(data), out=run, pretext="paired", partner_encoder=encoder, **small))
    unfinished(run)
    change(partner)
    with pytest.raises(BadInputError) as refused:
        resume.run(ResumeConfig(run))
    assert what in str(refused.value)
    assert "--accept-changed-data" in str(refused.value)
    assert resume.run(ResumeConfig(run, accept_changed_data=True))["step"] == 4
    logged = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert what.removeprefix("the images of --partner are not those that it began with (").removesuffix(")") in logged
    unfinished(run)
    assert resume.run(ResumeConfig(run))["step"] == 4


@pytest.mark.parametrize("command", ["resume", slow("pretrain")])
def test_sources_that_were_moved(two_folders: tuple[Path, Path], tmp_path: Path, command: str) -> None:
    """The run says where it looked, goes on with what is the same in another place, and keeps that one."""
    data, partner = two_folders
    series = tmp_path / "series.txt"
    series.write_text("00.png\t01.png\n")
    for name, pretext, place in (("partner", "paired", partner), ("series", "neighbours", series)):
        run, moved = tmp_path / name, place.with_name(f"moved-{place.name}")
        config = recipe("quick", data=str(data), out=run, pretext=pretext, **{name: str(place)}, **SMALL)
        pretrain.run(config)
        unfinished(run)
        place.rename(moved)
        with pytest.raises(BadInputError, match=rf"are not in {place}, where they were: give --{name} with where"):
            resume.run(ResumeConfig(run))
        now: dict[str, Any] = {name: str(moved)}
        if command == "resume":
            with pytest.raises(BadInputError, match=rf"not in {place}: give --{name}"):
                resume.run(ResumeConfig(run, **{**now, name: str(place)}))
            assert resume.run(ResumeConfig(run, **now))["step"] == 4
        else:
            assert pretrain.run(dataclasses.replace(config, **now))["step"] == 4
        assert json.loads((run / "config.json").read_text())[name] == str(moved)


def test_a_source_that_a_run_does_not_have(two_folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Is refused in one line, and so are images that are not the same."""
    data, partner = map(str, two_folders)
    config = recipe("quick", data=data, out=tmp_path / "run", pretext="paired", partner=partner, **SMALL)
    pretrain.run(config)
    unfinished(config.out)
    with pytest.raises(BadInputError, match="the run has no --series: leave it out"):
        resume.run(ResumeConfig(config.out, series=data))
    with pytest.raises(BadInputError, match=r"images of --partner are not those .*12 changed, the first 00\.png"):
        resume.run(ResumeConfig(config.out, partner=data))
    with pytest.raises(BadInputError, match="--pretext paired, and now it is views"):
        pretrain.run(dataclasses.replace(config, pretext="views", partner=None))


def test_a_changed_list_of_series_is_noticed(two_folders: tuple[Path, Path], tmp_path: Path) -> None:
    """The first line that is another is named; comments and another time of change are no change."""
    series = tmp_path / "series.txt"
    series.write_text("00.png\t01.png\n02.png\t03.png\n")
    small = {**SMALL, "series": str(series)}
    run = tmp_path / "run"
    pretrain.run(recipe("quick", data=str(two_folders[0]), out=run, pretext="neighbours", **small))
    unfinished(run)
    series.write_text("# frames\n00.png\t01.png\n02.png\t03.png\n\n")
    assert resume.run(ResumeConfig(run))["step"] == 4
    unfinished(run)
    series.write_text("00.png\t01.png\n02.png\t04.png\n")
    with pytest.raises(BadInputError, match=r"the lines of --series are not those .*the first 02\.png\\t04\.png\)"):
        resume.run(ResumeConfig(run))
    assert resume.run(ResumeConfig(run, accept_changed_data=True))["step"] == 4
