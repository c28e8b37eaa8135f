"""What follows from a teacher: which keys a student's views are compared with, and of which parts of the images."""

import dataclasses

from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig

TEACHER_CROPS, FEW_IMAGES = 7, 2048
"""Crops of each image that a teacher encodes, and of how many images at most."""


def with_teacher(config: PretrainConfig, n: int) -> PretrainConfig:
    """Settle what follows from a teacher: its keys lie in a queue, or all of them in one where they are cached."""
    if config.teacher is None:
        return config
    if config.teacher_views == "cached" and config.symmetric:
        raise BadInputError("--symmetric needs keys of both views, and --teacher-views cached has none: leave one out")
    crops = count_teacher_crops(config, n)
    queue_size = max(1, min(config.queue_size, (1 + crops) * (n - 1) if config.teacher_views == "cached" else n))
    return dataclasses.replace(config, dictionary="queue", queue_size=queue_size, teacher_crops=crops)


def count_teacher_crops(config: PretrainConfig, n: int) -> int:
    """Count the crops of each of n images that the teacher encodes beside the whole, once."""
    if config.teacher_views == "live":
        if config.teacher_crops:
            raise BadInputError(
                f"--teacher-crops is {config.teacher_crops}, and with --teacher-views live nothing is encoded before: "
                f"leave one out"
            )
        return 0
    if config.teacher_crops is None:
        return TEACHER_CROPS if n <= FEW_IMAGES else 0
    return config.teacher_crops
