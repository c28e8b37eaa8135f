"""Settings as dataclasses: the ranges of their fields, and the flags that the fields are."""

import dataclasses
import math
from typing import Any, TypeVar

from moco.errors import BadInputError

Value = TypeVar("Value")

POSITIVE = {
    "feature_dim", "hidden_dim", "queue_size", "temperature", "bn_groups", "image_size", "view_size", "std",
    "epochs", "max_steps", "batch_size", "accumulate", "lr", "base_lr", "lr_decay", "threads",
    "knn_k", "knn_images", "knn_temperature", "seconds", "shard_bytes", "timeout",
    "lrs", "draws", "finetune_lr", "images", "minutes", "seeds",
    "train_sizes", "test_size", "longest_side", "crop_size", "crop_scales", "head_channels", "anchor_sizes", "regions",
    "anchor_ratios", "head_dilation", "detections", "test_images", "trials",
}  # fmt: skip
NOT_NEGATIVE = {
    "warmup_epochs", "weight_decay", "workers", "log_every", "checkpoint_every", "knn_every", "seed",
    "views", "supervised_epochs", "finetune_steps", "hard_negatives", "mix", "mix_query",
    "lr_drops", "warmup_steps", "frozen_stages", "precise_bn", "norm_weight_decay", "evaluate_every", "shown_images",
}  # fmt: skip
MOST = {"seed": 2**63 - 1, "minutes": 366 * 24 * 60}
"""What fits into 64 bits, and a year."""
SHARES = {
    "key_momentum", "bank_momentum", "sgd_momentum", "milestones", "mean", "score_threshold", "flip", "nms_threshold",
    "repeat_threshold",
}  # fmt: skip


def check(config: Any) -> None:
    """Raise BadInputError naming the first field whose value lies outside its range."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if field.name in POSITIVE and not 0 < number < math.inf:
                raise BadInputError(f"{flag(field.name)} is {number}: expected a finite number more than 0")
            if field.name in NOT_NEGATIVE and not 0 <= number < math.inf:
                raise BadInputError(f"{flag(field.name)} is {number}: expected a finite number of 0 or more")
            if field.name in SHARES and not 0 <= number <= 1:
                raise BadInputError(f"{flag(field.name)} is {number}: expected 0 to 1")
            if number > MOST.get(field.name, math.inf):
                raise BadInputError(f"{flag(field.name)} is {number}: expected at most {MOST[field.name]}")


def settled(value: Value | None) -> Value:
    """A value that was left open in the flags and is no longer."""
    assert value is not None
    return value


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")
