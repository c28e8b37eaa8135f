"""In which groups `moco knn --help-all` and its like list their flags; `--help` lists the first group."""

from dataclasses import fields
from typing import Any

SELDOM: dict[str, tuple[str, ...]] = {
    "Random weights": ("like", "arch", "stem", "seed"),
    "Method": (
        "knn_temperature", "penalties", "views", "warmup_epochs", "weight_decay", "finetune_steps", "finetune_lr",
        "supervised_epochs",
    ),
    "Images and machine": (
        "exclude", "white_level", "most_pixels", "batch_size", "bank", "precision", "device", "workers", "threads",
    ),
}  # fmt: skip
"""Title -> fields that few people set."""


def group_flags(kind: type[Any]) -> dict[str, tuple[str, ...]]:
    """Group the flags of a command that takes weights: the common ones first, then those that few people set."""
    seldom = {name for names in SELDOM.values() for name in names}
    common = [
        name for field in fields(kind) if field.name not in seldom for name in (field.name, *_flags_of(field.name))
    ]
    return {"Common": tuple(dict.fromkeys(common)), **SELDOM}


def _flags_of(field: str) -> tuple[str, ...]:
    """Return the names of flags that set this field and are not called so."""
    return {"baseline": ("no_baseline",), "baselines": ("baseline",)}.get(field, ())
