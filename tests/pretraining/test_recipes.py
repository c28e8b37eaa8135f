"""The recipes hold the numbers of arXiv:1911.05722, 2003.04297 and 2104.02057, and the authors' CIFAR-10 notebook."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moco.core.encoder import Encoder
from moco.core.resnet import RESNETS
from moco.data.augment import AUGMENTATIONS, Augmentation
from moco.data.images import ArrayImages
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import encoder_plan
from moco.pretraining.prepare import build_schedule, resolve_config
from moco.pretraining.recipes import RECIPES, recipe
from moco.runtime.fields import check

BOTH = {
    "arch": "resnet50",
    "stem": "imagenet",
    "feature_dim": 128,
    "dictionary": "queue",
    "queue_size": 65536,
    "key_momentum": 0.999,
    "symmetric": False,
    "mask_own_keys": False,
    "image_size": 224,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "epochs": 200,
    "max_steps": None,
    "batch_size": 256,
    "base_lr": 0.03,
    "warmup_epochs": 0.0,
    "sgd_momentum": 0.9,
    "weight_decay": 1e-4,
}
PAPERS: dict[str, dict[str, Any]] = {
    "v1": {
        **BOTH,
        "head": "linear",
        "temperature": 0.07,
        "augment": "v1",
        "schedule": "step",
        "milestones": (0.6, 0.8),
        "lr_decay": 0.1,
    },
    "v2": {**BOTH, "head": "mlp", "temperature": 0.2, "augment": "v2", "schedule": "cosine", "hidden_dim": None},
    "cifar10": {
        **BOTH,
        "arch": "resnet18",
        "stem": "cifar",
        "head": "linear",
        "image_size": 32,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.2010),
        "batch_size": 512,
        "queue_size": 4096,
        "key_momentum": 0.99,
        "temperature": 0.1,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": "cifar",
        "knn_k": 200,
        "knn_temperature": 0.1,
    },
    "v3": {
        "arch": "vit-small-16",
        "head": "mlp-bn",
        "hidden_dim": 4096,
        "feature_dim": 256,
        "predictor": "mlp-bn",
        "freeze_patches": True,
        "queue_size": 0,
        "batch_keys": True,
        "symmetric": True,
        "temperature": 0.2,
        "scale_loss": True,
        "key_momentum": 0.99,
        "key_momentum_schedule": "cosine",
        "optimizer": "adamw",
        "base_lr": 1.5e-4,
        "weight_decay": 0.1,
        "warmup_epochs": 40.0,
        "schedule": "cosine-after-warmup",
        "epochs": 300,
        "batch_size": 4096,
        "image_size": 224,
    },
}


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """`resolve_config` sets the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def images(count: int) -> ArrayImages:
    """As many images as a data set has, which take no memory."""
    return ArrayImages(torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(count, 3, 1, 1))


def given(name: str, **values: Any) -> PretrainConfig:
    """A recipe for one process on the CPU."""
    return recipe(name, data="d", out=Path("run"), device="cpu", precision="fp32", threads=1, **values)


@pytest.mark.parametrize("name", PAPERS)
def test_values_are_the_papers(name: str) -> None:
    """Field by field."""
    config = vars(recipe(name, data="d", out=Path("run")))
    assert {field: config[field] for field in PAPERS[name]} == PAPERS[name]


def test_views_are_the_papers() -> None:
    """v1, section 3.3; v2, section 2; and the notebook, with torchvision's default area of a crop."""
    strong, weak = (0.4, 0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.1)
    assert {
        "v1": Augmentation((0.2, 1.0), strong, 1.0, grey_probability=0.2, blur_probability=0.0, grey_first=True),
        "v2": Augmentation((0.2, 1.0), weak, 0.8, grey_probability=0.2, blur_probability=0.5, blur_sigma=(0.1, 2.0)),
        "cifar": Augmentation((0.08, 1.0), weak, 0.8, grey_probability=0.2, blur_probability=0.0),
    } == {name: views for name, views in AUGMENTATIONS.items() if name != "mild"}  # which is the project's own
    assert all(views.flip_probability == 0.5 for views in AUGMENTATIONS.values())
    assert all(views.crop_ratio == (3 / 4, 4 / 3) for views in AUGMENTATIONS.values())


@pytest.mark.parametrize(
    ("name", "count", "lr"), [("v1", 1_281_167, 0.03), ("v2", 1_281_167, 0.03), ("cifar10", 50_000, 0.06)]
)
def test_rates_and_groups_follow_from_the_batch(name: str, count: int, lr: float) -> None:
    """0.03 at a batch of 256, in proportion; eight BN groups, as on eight devices; 200 epochs of full batches."""
    config = resolve_config(given(name), images(count))
    assert config.lr == pytest.approx(lr)
    assert config.bn_groups == 8
    assert config.max_steps == 200 * (count // config.batch_size)


def test_v1_lowers_the_rate_at_epochs_120_and_160() -> None:
    """By ten each time."""
    rate = build_schedule(resolve_config(given("v1"), images(256_000)), steps_per_epoch=1000)
    rates = [rate(epoch * 1000) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_v2_lowers_the_rate_by_half_a_cosine() -> None:
    """Over the whole run, without restarts."""
    rate = build_schedule(resolve_config(given("v2"), images(256_000)), steps_per_epoch=1000)
    expected = 0.015 * (1 + np.cos(np.pi * np.arange(0, 200, 20) / 200))
    assert [rate(epoch * 1000) for epoch in range(0, 200, 20)] == pytest.approx(expected.tolist())


def test_the_head_of_v2_has_2048_inner_units() -> None:
    """The width of ResNet-50's features, by default."""
    config = recipe("v2", data="d", out=Path("run"))
    encoder = Encoder(encoder_plan(config))
    layers = [layer for layer in encoder.head.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(2048, 2048), (2048, 128)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_sound_and_says_what_it_is(name: str) -> None:
    """Its values are in range; a line tells what it is."""
    check(recipe(name, data="d", out=Path("run")))
    assert RECIPES[name].about
    assert "\n" not in RECIPES[name].about


def test_given_values_replace_those_of_the_recipe() -> None:
    """And leave the recipe as it is."""
    assert recipe("v2", data="d", out=Path("run"), temperature=0.5).temperature == 0.5
    assert recipe("v2", data="d", out=Path("run")).temperature == 0.2
    assert recipe("v1", data="d", out=Path("run")) == PretrainConfig(data="d", out=Path("run"))


def test_a_recipe_that_is_none() -> None:
    """The message says which there are."""
    with pytest.raises(
        BadInputError,
        match="'quik' is not a recipe: expected one of v1, v2, v3, cifar10, taught, reduced, continued, v3-small",
    ):
        recipe("quik", data="d")


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batch", [4, 6, 9, 10, 11, 12, 24, 96, 128, 250])
def test_a_recipes_groups_give_way_to_the_batch(
    batch: int, processes: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that can be divided into groups of two and more is never refused for the recipe's number of them."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = accumulate * processes
    config = recipe("quick", data="digits", out=Path("run"), batch_size=batch, accumulate=accumulate)
    fitting = [groups for groups in range(1, batch // 2 + 1) if batch % groups == 0 and groups % shares == 0]
    assert config.bn_groups == (4 if 4 in fitting else None)
    assert recipe("quick", data="d", out=Path("run"), batch_size=batch, bn_groups=4).bn_groups == 4


@pytest.mark.parametrize("arch", ["convnext_tiny", "timm:resnet18", "vit-tiny-4"])
@pytest.mark.parametrize("name", ["quick", "cifar10"])
def test_a_recipes_stem_gives_way_to_the_network(name: str, arch: str) -> None:
    """Only our ResNets have a choice of stems: any other network needs no further flag, and a line says so."""
    with pytest.warns(UserWarning, match=f"--stem cifar is for ResNets: {arch} keeps its own first layers"):
        config = recipe(name, data="digits", out=Path("run"), arch=arch)
    assert config.stem == "imagenet"
    assert recipe(name, data="digits", out=Path("run"), arch=arch, stem="cifar").stem == "cifar"


@pytest.mark.parametrize("arch", [*RESNETS, "resnet18-w16", "resnet50-2x"])
def test_resnets_keep_a_recipes_stem(arch: str) -> None:
    """Whatever their width."""
    assert recipe("quick", data="digits", out=Path("run"), arch=arch).stem == "cifar"


@pytest.mark.parametrize(("count", "epochs"), [(1024, 4), (12_000, 4), (20_000, 3), (24_000, 2), (48_000, 1)])
def test_evaluations_take_less_than_training(count: int, epochs: int) -> None:
    """Between two evaluations of up to 12,000 images a run trains on four times as many, in whole epochs."""
    config = resolve_config(given("v1", batch_size=64, queue_size=512), images(count))
    assert config.knn_every == epochs * (count // 64)
