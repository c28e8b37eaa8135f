"""Named configs: the papers' own, and one for a CPU in minutes."""

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig

RESNETS_BEGIN = ("resnet", "resnext", "wide_resnet")
"""How the names of the networks begin that have a choice of stems; others have colons, or other words, in front."""
TEACHERS_OWN = "teacher"
"""What --init-weights says to start from the weights of --teacher."""


@dataclass(frozen=True)
class Recipe:
    """A named config: its description, and its differences from v1, the defaults of PretrainConfig."""

    about: str
    values: dict[str, Any]
    needs: str | None = None
    """The field that has to be given, beside data and out."""
    own_flags: tuple[str, ...] = ()
    """Fields that its short help lists beside those of every recipe."""
    opening: str = "Pre-train an encoder on unlabelled images by momentum contrast."
    """The first sentence of its help."""


WHITEN = 4096
"""Images by which features are whitened: at least twice as many as most networks have features."""
V2: dict[str, Any] = {"head": "mlp", "temperature": 0.2, "augment": "v2", "schedule": "cosine"}
CIFAR10: dict[str, Any] = {
    "arch": "resnet18",
    "stem": "cifar",
    "augment": "cifar",
    "image_size": 32,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "batch_size": 512,
    "queue_size": 4096,
    "key_momentum": 0.99,
    "temperature": 0.1,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "knn_k": 200,
}
QUICK: dict[str, Any] = {
    **CIFAR10,
    "arch": "resnet18-w16",
    "dictionary": "in-batch",
    "queue_size": 512,
    "augment": "v2",
    "image_size": 24,
    "view_size": 16,
    "batch_size": 128,
    "bn_groups": 4,
    "epochs": 5,
    "base_lr": 0.12,
    "init": "whitened",
    "optimizer": "muon",
    "knn_k": None,
    "whiten": WHITEN,
}
"""In its first few thousand steps an encoder changes so fast that it can distinguish a queue's keys by their age, and
keys of the batch itself teach more. Views of 16 pixels show things smaller than images of 32 do: evaluations shrink
these to 24 pixels (docs/results.md). It is small images' fastest start, not the papers' method."""
TAUGHT: dict[str, Any] = {
    "arch": "resnet18-w32", "stem": "imagenet-unpooled", "head": "mlp", "image_size": 64, "augment": "mild",
    "temperature": 0.2, "schedule": "cosine", "batch_size": 64, "bn_groups": 1, "base_lr": 0.2, "warmup_epochs": 5.0,
    "epochs": 120, "init": "whitened", "optimizer": "muon", "muon_lr": 0.03, "blend": True, "whiten": WHITEN,
}  # fmt: skip
"""What taught a small network most in ten minutes on two sets of photographs (docs/teacher.md)."""
REDUCED: dict[str, Any] = {
    "init_weights": TEACHERS_OWN, **dict.fromkeys(("arch", "stem", "mean", "std")), "image_size": 64, "bn": "keep",
    "head": "mlp", "augment": "mild", "temperature": 0.2, "schedule": "cosine", "batch_size": 64, "base_lr": 0.04,
    "head_lr": 0.08, "warmup_epochs": 5.0, "epochs": 40, "blend": True, "whiten": WHITEN,
}  # fmt: skip
"""Published weights lose much of what they know where images are smaller than those that they were trained on. With
small steps towards their own features of the whole image they learn it again (docs/reduced.md)."""
CONTINUED: dict[str, Any] = {
    **V2, "bn": "keep", "batch_size": 64, "queue_size": 1024, "key_momentum": 0.99, "mask_own_keys": True,
    "base_lr": 0.016, "head_lr": 0.03, "head_steps": 40, "epochs": 10, "keep": "best", "init": "whitened",
    "whiten": WHITEN, "small_views": True,
}  # fmt: skip
"""Small steps for the published network, large ones for its new head (docs/continued.md). Sets for which that pays are
often hardly larger than the queue, so an image's own older keys are masked."""
TEXT: dict[str, Any] = {
    "pretext": "text", "arch": "bytes-ngrams", "head": "linear", "image_size": 256, "batch_keys": True,
    "queue_size": 1024, "mask_own_keys": True, "key_momentum": 0.99, "symmetric": True, "batch_size": 64,
    "temperature": 0.1, "schedule": "cosine", "optimizer": "adamw", "base_lr": 0.04, "warmup_epochs": 1.0, "epochs": 10,
}  # fmt: skip
"""Spans of 256 bytes are about 40 words."""
V3: dict[str, Any] = {
    "arch": "vit-small-16", "head": "mlp-bn", "hidden_dim": 4096, "feature_dim": 256, "predictor": "mlp-bn",
    "freeze_patches": True, "batch_keys": True, "queue_size": 0, "symmetric": True, "temperature": 0.2,
    "scale_loss": True, "key_momentum": 0.99, "key_momentum_schedule": "cosine", "augment": "v2", "batch_size": 4096,
    "optimizer": "adamw", "base_lr": 1.5e-4, "weight_decay": 0.1, "warmup_epochs": 40.0, "epochs": 300,
    "schedule": "cosine-after-warmup",
}  # fmt: skip
V3_SMALL: dict[str, Any] = {
    **V3, "arch": "vit-tiny-4", "hidden_dim": 1024, "feature_dim": 128, "image_size": 32, "view_size": 16,
    "mean": CIFAR10["mean"], "std": CIFAR10["std"], "batch_size": 256, "base_lr": 1e-3, "weight_decay": 0.05,
    "warmup_epochs": 1.0, "epochs": 5,
}  # fmt: skip

TEACHERS_FLAGS = ("teacher_size", "teacher_views", "teacher_crops", "teacher_temperature", "blend")
BY_TEACHER = "Train an encoder on unlabelled images to match the features of a teacher."

RECIPES = {
    "v1": Recipe(
        "MoCo v1 (arXiv:1911.05722): ResNet-50, 224 pixels, 200 epochs; the paper reports 60.6% on ImageNet",
        {},
    ),
    "v2": Recipe(
        "MoCo v2 (arXiv:2003.04297): MLP head, more augmentation, cosine schedule; the paper reports 67.5% on ImageNet",
        V2,
    ),
    "v3": Recipe(
        "MoCo v3 (arXiv:2104.02057): ViT-S, no queue, 224 pixels, 300 epochs; the paper reports 73.2% on ImageNet",
        V3,
    ),
    "cifar10": Recipe(
        "the authors' CIFAR-10 notebook: ResNet-18, 32 pixels, 200 epochs; they report 82.6% by kNN", CIFAR10
    ),
    "taught": Recipe(
        "trains a small, fast network in minutes to imitate a larger encoder, --teacher W", TAUGHT, "teacher",
        own_flags=TEACHERS_FLAGS, opening=BY_TEACHER,
    ),
    "reduced": Recipe(
        "makes published weights fast by adapting them to images of 64 pixels, --teacher W", REDUCED, "teacher",
        own_flags=(*TEACHERS_FLAGS, "base_lr", "head_lr", "bn"), opening=BY_TEACHER,
    ),
    "continued": Recipe(
        "continues the training of published or your own weights, --init-weights W; keeps the best", CONTINUED,
        "init_weights", own_flags=("base_lr", "head_lr", "head_steps", "bn", "small_views", "view_size"),
    ),
    "v3-small": Recipe(
        "a small transformer on small images, like v3; needs a GPU, or hours on a CPU", V3_SMALL,
        own_flags=("view_size",),
    ),
    "quick": Recipe(
        "from scratch on small images, on a CPU, in minutes", QUICK, own_flags=("view_size",),
        opening="Pre-train an encoder on unlabelled images by contrast within each batch.",
    ),
    "text": Recipe(
        "from scratch on text files instead of images, on a CPU, in minutes", TEXT,
        own_flags=("view_size", "base_lr", "temperature"),
        opening="Pre-train an encoder on unlabelled documents by momentum contrast.",
    ),
}  # fmt: skip


OF_WEIGHTS = ("arch", "stem", "image_size", "mean", "std")
"""What weights to start from say of themselves, so that a recipe says nothing of it."""


def recipe(name: str, **given: Any) -> PretrainConfig:
    """Return the config of a recipe, with some of its values given: `recipe("quick", data="photos", out=Path("run"))`.

    Raises BadInputError where there is none of that name.
    """
    if name not in RECIPES:
        raise BadInputError(f"{name!r} is not a recipe: expected one of {', '.join(RECIPES)}")
    values = recipe_values(name, {field for field, value in given.items() if value is not None})
    return fit_recipe(PretrainConfig(**{**values, **given}), given)


def fit_recipe(config: PretrainConfig, given: Collection[str]) -> PretrainConfig:
    """Let the recipe's stem and number of BN groups give way where they do not fit what is given beside them."""
    return _fit_groups(_fit_stem(config, given), given)


def _fit_stem(config: PretrainConfig, given: Collection[str]) -> PretrainConfig:
    """Leave the recipe's stem to ResNets, and say so where it gives way; one that is given stays."""
    if config.stem in (None, "imagenet") or "stem" in given or "arch" not in given or config.arch is None:
        return config
    if config.arch.startswith(RESNETS_BEGIN):
        return config
    if os.environ.get("RANK", "0") == "0":
        warnings.warn(f"--stem {config.stem} is for ResNets: {config.arch} keeps its own first layers", stacklevel=2)
    return replace(config, stem="imagenet")


def _fit_groups(config: PretrainConfig, given: Collection[str]) -> PretrainConfig:
    """Leave the number of BN groups open where the recipe's does not fit the batch; one that is given stays.

    What is open becomes the nearest number of groups of two and more images, for each process and part of the batch.
    """
    groups, processes = config.bn_groups, os.environ.get("WORLD_SIZE", "1")
    if groups is None or "bn_groups" in given:
        return config
    shares = config.accumulate * (int(processes) if processes.isdecimal() else 1)
    fits = config.batch_size % groups == 0 and groups % shares == 0 and config.batch_size >= 2 * groups
    return config if fits else replace(config, bn_groups=None)


def recipe_values(name: str, given: Collection[str]) -> dict[str, Any]:
    """Return a recipe's values beside the fields that are given.

    Where weights to start from are among these, the network and its images are left open for them; `reduced` always
    does that, and settles the size. The stem of `taught` belongs to its own network.
    """
    values = dict(RECIPES[name].values)
    if name == "taught" and "arch" in given:
        del values["stem"]
    return (
        {**values, **dict.fromkeys((*OF_WEIGHTS, "view_size"))}
        if "init_weights" in given and name != "reduced"
        else values
    )
