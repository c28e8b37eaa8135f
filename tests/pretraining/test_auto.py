"""`moco pretrain auto`: values that fit images and time, each with its reason; flags that are given stay."""

from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.cli import main, parse
from moco.data.images import ArrayImages
from moco.pretraining import auto as module
from moco.pretraining.auto import AutoConfig, batch_for, candidates, choose_settings, derive, groups_for, method_for
from moco.pretraining.config import PretrainConfig
from moco.runtime.fields import check


@pytest.fixture(autouse=True)
def speeds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """500 images per second with views of 16 pixels and the narrow net, less in proportion to the work."""
    tried: list[dict[str, Any]] = []

    def rate(images: Any, values: dict[str, Any], config: AutoConfig) -> float:
        tried.append(values)
        work = (values["view_size"] / (1 if values["stem"] == "cifar" else 4)) ** 2 / 256
        return float(500 / work / {"resnet18-w16": 1, "resnet18": 14}.get(values["arch"], 60))

    monkeypatch.setattr(module, "measure_rate", rate)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    return tried


def images(count: int, side: int) -> ArrayImages:
    """Black ones, which take no memory."""
    return ArrayImages(torch.zeros(1, dtype=torch.uint8).expand(count, 3, side, side))


def values(count: int, side: int, minutes: float, **given: Any) -> dict[str, Any]:
    """What is derived, without the reasons."""
    asked = AutoConfig("d", Path("run"), minutes=minutes, device="cpu")
    found = derive(images(count, side), asked, given)
    assert all(isinstance(why, str) and why for _, why in found.values())
    return {name: value for name, (value, _) in found.items()}


def test_small_images_for_minutes_are_the_quick_recipe() -> None:
    """CIFAR-10 in ten minutes: `quick`, with as many epochs as fit."""
    found = values(50_000, 32, 10)
    wanted = {"arch": "resnet18-w16", "view_size": 16, "image_size": 32, "dictionary": "in-batch", "batch_size": 128,
              "bn_groups": 4, "base_lr": 0.12, "temperature": 0.1, "epochs": 5, "head": "linear"}  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted


def test_more_time_buys_larger_views_a_longer_run_and_the_queue() -> None:
    """An hour: views of the whole size; two days: the full width, K a quarter of the images at most, MLP head."""
    hour, days = values(50_000, 32, 60), values(50_000, 32, 48 * 60)
    assert (hour["view_size"], hour["arch"]) == (32, "resnet18-w16")
    assert (days["arch"], days["dictionary"], days["head"], days["temperature"]) == ("resnet18", "queue", "mlp", 0.2)
    assert days["queue_size"] == 8192
    assert 0.99 <= days["key_momentum"] <= 0.999


def test_photographs_keep_more_pixels() -> None:
    """Than `quick` leaves them, by the usual stem."""
    found = values(3000, 300, 10)
    assert (found["image_size"], found["view_size"], found["stem"]) == (64, 64, "imagenet")
    assert found["batch_size"] * 8 <= 3000


def test_given_values_stay(speeds: list[dict[str, Any]]) -> None:
    """And the others follow from them: the speed is that with them."""
    found = values(50_000, 32, 10, view_size=32, batch_size=64, epochs=3)
    assert (found["view_size"], found["batch_size"], found["epochs"], found["bn_groups"]) == (32, 64, 3, 2)
    assert all(tried["view_size"] == 32 and tried["batch_size"] == 64 for tried in speeds)


@pytest.mark.parametrize("count", [16, 100, 1437, 10**6])
@pytest.mark.parametrize("side", [8, 28, 90, 100, 500])
def test_every_derived_run_is_sound(count: int, side: int) -> None:
    """Values in their ranges, whole BN groups, a batch and a queue that the images fill."""
    found = values(count, side, 5)
    check(PretrainConfig("d", Path("run"), **found))
    assert found["batch_size"] % found["bn_groups"] == 0
    assert 2 * found["bn_groups"] <= found["batch_size"] <= count
    assert found["image_size"] <= max(16, side)


def test_rules() -> None:
    """At their ends."""
    assert [batch_for(n, "cpu") for n in (10, 64, 1000, 10**6)] == [4, 8, 64, 128]
    assert batch_for(10**6, "cuda") == 256
    assert [groups_for(n) for n in (4, 64, 256)] == [2, 2, 8]
    assert method_for(10**6, 100_000)["key_momentum"][0] == pytest.approx(0.999)
    assert method_for(10**6, 10_000)["key_momentum"][0] == pytest.approx(0.99)
    assert candidates(500, 10**6)[-1].arch == "resnet50"


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each value is told with its reason; flags override; a run that is there keeps its settings; mistakes are told."""
    words = ["pretrain", "auto", "--data", "digits", "--out", str(tmp_path / "run"), "--minutes", "1"]
    config, _ = parse([*words, "--queue-size", "77", "--symmetric"])
    assert (config.queue_size, config.symmetric, config.data) == (77, True, "digits")
    told = capsys.readouterr().out
    assert "auto: --queue-size 77: as given" in told
    assert "auto: --epochs " in told
    (tmp_path / "run").mkdir()
    from moco.runtime.configfile import to_json

    (tmp_path / "run" / "config.json").write_text(to_json(config), encoding="utf-8")
    again, _ = parse(words)
    assert again.queue_size == 77
    assert main([*words[:-1], "0"]) == 2
    assert main(["pretrain", "auto", "--data", "digits"]) == 2
    assert main([*words, "--tau", "1"]) == 2


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would measure different speeds."""
    monkeypatch.setattr("moco.runtime.distributed.world_size", lambda: 2)
    with pytest.raises(ValueError, match="is for one process"):
        choose_settings(AutoConfig("digits", Path("run")), {}, print)


def test_what_cannot_be_read_has_no_size() -> None:
    """The median of the others."""
    mixed = ArrayImages(torch.zeros(4, 3, 20, 30, dtype=torch.uint8), unreadable={0: "broken"})
    assert module.typical_side(mixed) == 20
    with pytest.raises(ValueError, match="none of the images"):
        module.typical_side(ArrayImages(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), unreadable={0: "broken"}))
    assert np.isfinite(module.TRIAL_SECONDS)


def test_too_little_time_for_a_pass_is_told_in_steps() -> None:
    """Rounded to whole passes a large set would take hours where minutes are given."""
    found = values(10**6, 32, 10)
    assert "epochs" not in found
    assert found["max_steps"] == int(0.85 * 600 * 500 / found["batch_size"])
    assert "max_steps" not in values(1000, 32, 10)


def test_views_follow_the_size_that_is_given() -> None:
    """They are not larger than the images, and both are not those of smaller images."""
    assert values(50_000, 32, 10, image_size=64)["view_size"] in (32, 64)
    assert values(3000, 300, 10**4, image_size=48)["view_size"] <= 48
    found = values(50_000, 32, 10, view_size=48)
    assert (found["view_size"], found["image_size"]) == (48, 48)


@pytest.mark.parametrize(("batch", "groups"), [(96, 3), (100, 4), (7, None), (1, None)])
def test_groups_part_the_batch_that_is_given(batch: int, groups: int | None) -> None:
    """Whole ones of two images or more; else they are left open, so that no flag is blamed that nobody gave."""
    assert groups_for(batch) == groups


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--minutes", "1e308"], "--minutes is 1e+308: expected more than 0, at most 527040"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--data", "FEW"], "3 training image(s), expected at least 4"),
    ],
)
def test_absurd_wishes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], speeds: list[Any], more: list[str], told: str
) -> None:
    """Are refused in a line, before anything is measured."""
    for name in "abc":
        PillowImage.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    words = ["pretrain", "auto", "--data", "digits", "--out", str(tmp_path / "run"), *more]
    assert main([str(tmp_path) if word == "FEW" else word for word in words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert speeds == []
