"""`moco pretrain auto`: settings that fit images and time, each with its reason; flags that are given stay."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from moco.data.images import ArrayImages
from moco.errors import BadInputError
from moco.pretraining import auto as module
from moco.pretraining.auto import Situation, batch_for, candidates, complete, groups_for, method_for, settle
from moco.pretraining.timing import StepTime
from moco.pretraining.ways import Way
from moco.runtime.fields import check
from tests.slow import slow

SCRATCH = Way("quick", None, None, "from scratch, because")
TAUGHT = Way("taught", "net.pth", 128, "taught")
REDUCED = Way("reduced", "net.pth", 128, "reduced")
CONTINUED = Way("continued", "net.pth", 128, "trained on")
TRAINING_SHARE = 0.85


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are not checked: a flag that must be given has a placeholder."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def tried() -> list[Mapping[str, Any]]:
    """The settings that were measured."""
    return []


def values(
    count: int, side: int, minutes: float, way: Way = SCRATCH, tried: list[Mapping[str, Any]] | None = None,
    **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Settings, without the reasons, on a machine with 500 images/s with views of 16 pixels and the narrow net."""

    def measure(settings: Mapping[str, Any]) -> StepTime:
        if tried is not None:
            tried.append(settings)
        view = settings.get("view_size") or settings["image_size"]
        work = (view / (1 if settings["stem"] == "cifar" else 4)) ** 2 / 256
        rate = 500 / work / {"resnet18-w16": 1, "resnet18-w32": 4, "resnet18": 14}.get(settings["arch"], 60)
        return StepTime(settings["batch_size"] / rate, 1.0)

    situation = Situation(count, side, "cpu", TRAINING_SHARE * 60 * minutes, given)
    found = settle(way, situation, measure, lambda text: None)
    assert all(isinstance(why, str) and why for _, why in found.values())
    check(complete(way, found, given, "d", Path("run")))
    return {name: value for name, (value, _) in found.items()} | given


def test_small_images_for_minutes_are_the_quick_recipe() -> None:
    """CIFAR-10 in ten minutes: the settings of `quick`."""
    found = values(50_000, 32, 10)
    wanted = {"arch": "resnet18-w16", "view_size": 16, "image_size": 24, "dictionary": "in-batch", "batch_size": 128,
              "bn_groups": 4}  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert "head" not in found  # as in the recipe


def test_more_time_buys_width_larger_views_a_longer_run_and_the_queue() -> None:
    """An hour: twice the width; two weeks: full width, views of the whole size, K a quarter of the images, MLP head."""
    hour, days = values(50_000, 32, 60), values(50_000, 32, 14 * 24 * 60)
    assert (hour["view_size"], hour["image_size"], hour["arch"]) == (16, 24, "resnet18-w32")
    assert (days["view_size"], days["image_size"]) == (32, 32)
    assert (days["arch"], days["dictionary"], days["head"], days["temperature"]) == ("resnet18", "queue", "mlp", 0.2)
    assert days["queue_size"] == 8192
    assert 0.99 <= days["key_momentum"] <= 0.999


def test_photographs_keep_more_pixels() -> None:
    """Than `quick` leaves them, by the usual stem; whole images have more than views, as far as there are more."""
    found = values(3000, 300, 10)
    assert (found["image_size"], found["view_size"], found["stem"]) == (96, 64, "imagenet")
    assert [(one["image_size"], one["view_size"]) for one in candidates(110, 3000)][:2] == [(96, 64), (108, 96)]
    assert found["batch_size"] * 8 <= 3000


def test_given_values_stay(tried: list[Mapping[str, Any]]) -> None:
    """And the others follow from them: the speed is that with them."""
    found = values(50_000, 32, 10, tried=tried, view_size=32, batch_size=64, epochs=3)
    assert (found["view_size"], found["batch_size"], found["epochs"], found["bn_groups"]) == (32, 64, 3, 2)
    assert all(one["view_size"] == 32 and one["batch_size"] == 64 for one in tried)


@pytest.mark.parametrize("way", [SCRATCH, TAUGHT, REDUCED, CONTINUED], ids=lambda way: way.recipe)
@pytest.mark.parametrize("count", [16, slow(100), slow(1437), 10**6])
@pytest.mark.parametrize("side", [8, slow(28), 90, slow(100), 500])
def test_every_derived_run_is_sound(count: int, side: int, way: Way) -> None:
    """Values in their ranges (`values` checks), whole BN groups, a batch that the images fill."""
    found = values(count, side, 5, way)
    assert found["batch_size"] <= count
    if way is SCRATCH:
        assert found["batch_size"] % found["bn_groups"] == 0
        assert 2 * found["bn_groups"] <= found["batch_size"]
        assert found["image_size"] <= max(16, side)
    if way is CONTINUED:
        assert found["queue_size"] <= max(4, count // 2)


def test_a_taught_network_is_narrower_where_time_is_short() -> None:
    """Five passes with the wider one, or the narrow one; the warm-up is a quarter of a short run."""
    long, short = values(1000, 300, 600, TAUGHT), values(50_000, 300, 2, TAUGHT)
    assert (long["arch"], long["warmup_epochs"], long["teacher"]) == ("resnet18-w32", 5.0, "net.pth")
    assert short["arch"] == "resnet18-w16"
    assert 0 < short["warmup_epochs"] < 1
    assert (long["blend"], short["blend"]) == (True, False)


def test_a_reduced_network_is_its_own_teacher() -> None:
    """At the size at which it did best; it sees no more pixels than the images have."""
    found = settle(REDUCED, Situation(1000, 300, "cpu", 500.0, {}), lambda _: StepTime(0.5, 1.0), print)
    config = complete(REDUCED, found, {}, "d", Path("run"))
    assert (config.teacher, config.teacher_size, config.init_weights, config.arch) == ("net.pth", 128, "teacher", None)
    assert (config.image_size, config.bn, config.warmup_epochs) == (64, "keep", 5.0)
    assert values(1000, 50, 5, REDUCED)["image_size"] == 48
    assert 0 < values(50_000, 300, 1, REDUCED)["warmup_epochs"] < 1


def test_trained_on_weights_have_their_own_network() -> None:
    """Only the size of the images is chosen for them."""
    config = complete(CONTINUED, settle(CONTINUED, Situation(3000, 300, "cpu", 500.0, {}), lambda _: None, print), {},
                      "d", Path("run"))  # fmt: skip
    assert (config.init_weights, config.image_size, config.arch, config.keep) == ("net.pth", 128, None, "best")


def test_no_speed_is_measured_that_cannot_matter(tried: list[Mapping[str, Any]]) -> None:
    """Where the time does not suffice for one network, it does not for a larger one."""
    assert values(50_000, 32, 0.3, tried=tried)["arch"] == "resnet18-w16"
    assert len(tried) == 1
    tried.clear()
    assert values(50_000, 32, 10, tried=tried)["arch"] == "resnet18-w16"
    assert [one["arch"] for one in tried] == ["resnet18-w16", "resnet18-w32"]


def test_a_network_that_does_not_fit_into_memory_is_left_out() -> None:
    """The one before it is taken; where there is none, the run is refused."""
    answers = iter([StepTime(1e-4, 1.0), None])
    said = list[str]()
    found = settle(SCRATCH, Situation(3000, 300, "cpu", 500.0, {}), lambda _: next(answers), said.append)
    assert (found["image_size"][0], found["view_size"][0]) == (96, 64)
    assert said == ["auto: resnet18-w16 with views of 64 pixels: 1280000 images/s",
                    "auto: resnet18-w16 with views of 96 pixels: out of memory"]  # fmt: skip
    with pytest.raises(BadInputError, match="out of memory"):
        settle(SCRATCH, Situation(3000, 300, "cpu", 500.0, {}), lambda _: None, said.append)


def test_rules() -> None:
    """At their ends."""
    assert [batch_for(n, "cpu") for n in (10, 64, 1000, 10**6)] == [4, 8, 64, 128]
    assert batch_for(10**6, "cuda") == 256
    assert [groups_for(n) for n in (4, 64, 256)] == [2, 2, 8]
    assert method_for(10**6, 100_000)["key_momentum"][0] == pytest.approx(0.999)
    assert method_for(10**6, 10_000)["key_momentum"][0] == pytest.approx(0.99)
    assert candidates(500, 10**6)[-1]["arch"] == "resnet50"
    assert [candidates(500, 10_000, device)[-1]["arch"] for device in ("cpu", "cuda")] == ["resnet18", "resnet50"]


def test_what_cannot_be_read_has_no_size() -> None:
    """The median of the others."""
    mixed = ArrayImages(torch.zeros(4, 3, 20, 30, dtype=torch.uint8), unreadable={0: "broken"})
    assert module.typical_side(mixed) == 20
    with pytest.raises(BadInputError, match="none of the inspected images"):
        module.typical_side(ArrayImages(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), unreadable={0: "broken"}))


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
