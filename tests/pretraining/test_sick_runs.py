"""Runs made sick on purpose say what ails them, and a run that goes well says that it is healthy and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.commands.pretrain import build_checkup
from moco.commands.pretrain import run as pretrain
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images
from moco.pretraining import health as judge
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain as train
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from moco.runtime.fields import flag
from tests.faults.processes import finish

SMALL: dict[str, Any] = {
    "arch": "resnet10-w16", "image_size": 8, "view_size": None, "dictionary": "queue", "batch_size": 32,
    "queue_size": 64, "max_steps": 60, "bn_groups": 4, "lr": 0.06, "log_every": 10, "knn_every": 60, "knn_images": 100,
    "checkpoint_every": 0, "threads": 1, "precision": "fp32", "device": "cpu", "init": "kaiming", "optimizer": "sgd",
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Images:
    """The training images of scikit-learn's digits."""
    return load("digits")["train"]


def small(out: Path, **values: Any) -> PretrainConfig:
    """A config of sixty small steps on the digits."""
    return recipe("quick", data="digits", out=out, **{**SMALL, **values})


def health(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics that tell the run's health."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "health" in line]


def examined(config: PretrainConfig, images: Images) -> list[dict[str, Any]]:
    """Train with a check-up at each look and no other monitor; the lines that tell the run's health."""
    train(config, images, lambda encoder: {}, checkup=build_checkup(config, images))
    return health(config.out)


# --- what a run says ------------------------------------------------------------------------------------------------


def test_a_run_that_goes_well_is_healthy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the terminal, in the metrics, in the status and in the result; and nothing else is said."""
    monkeypatch.setattr(judge, "EARLY_STEPS", 100)
    larger: dict[str, Any] = {"image_size": 12, "batch_size": 64, "queue_size": 128, "bn_groups": 8, "log_every": 20}
    result = pretrain(small(tmp_path / "run", max_steps=100, knn_every=50, **larger))
    early, late = found = health(tmp_path / "run")
    assert (early["step"], early["findings"], early["conditions"]) == (50, ["early"], ["undecided"])
    assert (late["step"], late["health"], late["findings"], late["conditions"]) == (100, "healthy", [], [])
    assert (result["health"], result["findings"], result["conditions"]) == ("healthy", [], [])
    assert result["knn_queries"] == 20
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["health"] == status["result"]["health"] == "healthy"
    shown = [line for line in capsys.readouterr().out.splitlines() if "health" in line]
    assert shown == [f"step 50/100  health: {early['health']}", "step 100/100  health: healthy"]
    assert {"filled", "effective_rank", "head_alignment", "head_uniformity"} <= found[0].keys()
    assert {"new_keys_own", "old_keys_own", "new_keys_similarity", "old_keys_similarity"} <= found[0].keys()


def test_looks_change_nothing(tmp_path: Path, digits: Images) -> None:
    """With a check-up at every step or none, every weight, key and running statistic is the same in the end."""
    values: dict[str, Any] = {"max_steps": 6, "log_every": 1}
    examined(small(tmp_path / "looked", knn_every=1, **values), digits)
    train(small(tmp_path / "left alone", knn_every=0, **values), digits)
    looked, alone = (load_tensors(checkpoint_path(tmp_path / name, 6))[0] for name in ("looked", "left alone"))
    assert looked.keys() == alone.keys()
    assert all(torch.equal(looked[name], alone[name]) for name in alone)
    assert [line["step"] for line in health(tmp_path / "looked")] == [1, 2, 3, 4, 5, 6]
    (only,) = health(tmp_path / "left alone")
    assert (only["step"], only["filled"], "effective_rank" in only) == (6, 100.0, False)


def test_a_run_that_goes_on_knows_how_it_began(tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first look is read from the metrics, and kNN accuracy that fell since is a finding as in a run at one go."""
    monkeypatch.setattr(judge, "EARLY_STEPS", 4)
    config, looks = small(tmp_path / "run", max_steps=4, knn_every=4, log_every=1), [{"knn_top1": 90.0}]

    def monitor(encoder: object) -> dict[str, float]:
        return {**looks.pop(), "knn_queries": 100.0}

    with pytest.raises(IndexError):  # at the second look, the last step being saved
        train(config, digits, monitor)
    looks.append({"knn_top1": 10.0})
    result = train(config, digits, monitor)
    assert result["before"] == {"knn_top1": 90.0, "knn_queries": 100.0}
    assert "worse" in result["findings"]


def test_two_processes_say_what_one_says(tmp_path: Path, digits: Images) -> None:
    """Each encodes half of the views: the figures of the first look agree within fp32's rounding after three steps."""
    values = {**SMALL, "max_steps": 3, "knn_every": 3, "base_lr": 0.03, "augment": "cifar"}
    values["view_size"] = values["image_size"]  # a flag cannot take back what the recipe says
    arguments = ["pretrain", "quick", "--data", "digits", "--out", str(tmp_path / "two"), "--whiten", "0"]
    for name, value in values.items():
        arguments += [flag(name), str(value)] if value is not None else []
    said = finish(arguments, tmp_path, ranks=2)
    (two,) = health(tmp_path / "two")
    (one,) = examined(small(tmp_path / "one", **values), digits)
    figures = {name: value for name, value in one.items() if isinstance(value, float) and name != "time"}
    assert {name: two[name] for name in figures} == {name: pytest.approx(figures[name], rel=0.02) for name in figures}
    assert two["findings"] == one["findings"]
    assert (said.text(0) + said.text(1)).count("health: ") == 1


# --- sick runs ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the queue holds")
def test_a_queue_that_the_run_does_not_fill(tmp_path: Path, digits: Images) -> None:
    """K = 4096 and four steps of 32: all but 128 keys are random, and the run says so."""
    for line in examined(small(tmp_path, queue_size=4096, max_steps=4, knn_every=2), digits):
        assert line["findings"] == ["short", "filling"]
    assert (line["step"], line["filled"]) == (4, pytest.approx(100 * 128 / 4096, abs=0.01))
    assert "97% of the queue's 4096 keys are still the initial random ones" in line["health"]
    assert "--queue-size 32 or less, or more --epochs" in line["health"]


def test_a_collapse(tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without momentum (m = 0) and with a rate that is far too large, different images get the same features."""
    monkeypatch.setattr(judge, "EARLY_STEPS", 60)
    early, late = examined(small(tmp_path, key_momentum=0.0, lr=1.0, knn_every=30), digits)
    assert (early["findings"], early["conditions"]) == (["collapsed"], ["undecided"])
    assert (late["findings"], late["conditions"]) == (["collapsed"], ["failed"])
    assert late["head_uniformity"] > -0.05
    assert "smaller --lr or a --key-momentum nearer to 1" in late["health"]


def test_a_rate_of_nothing(tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """With lr = 1e-12 the loss stays at chance: in the early steps that is normal, after them no longer."""
    monkeypatch.setattr(judge, "EARLY_STEPS", 40)
    values: dict[str, Any] = {"arch": "resnet10-w4", "batch_size": 16, "queue_size": 32}
    early, late = examined(small(tmp_path, lr=1e-12, max_steps=40, knn_every=20, log_every=5, **values), digits)
    assert early["findings"] == late["findings"] == ["chance"]
    assert early["health"].endswith("log(K+1) = 3.50. That is normal in the first 40 steps. Wait.")
    assert "after 40 steps. The encoder learns nothing from the task." in late["health"]
    assert "(now 1e-12)" in late["health"]
    assert (early["conditions"], late["conditions"]) == (["undecided"], ["failed"])


@pytest.mark.parametrize(("value", "names"), [(90, ["few", "short", "blank"]), (6, ["few", "short", "blank", "dark"])])
def test_images_of_one_colour(tmp_path: Path, value: int, names: list[str]) -> None:
    """Their views show nothing: that is said before what follows from it."""
    images = ArrayImages(torch.full((64, 3, 8, 8), value, dtype=torch.uint8))
    (line,) = examined(small(tmp_path, max_steps=3, knn_every=3), images)
    assert line["findings"][: len(names)] == names
    assert line["blank_views"] == 100
