"""What follows from a teacher: which keys a student's views are compared with, and of which parts of the images."""

import dataclasses

from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig


def with_teacher(config: PretrainConfig, n: int) -> PretrainConfig:
    """Settle what follows from a teacher: its keys lie in a queue, or all of them in one where they are cached."""
    if config.teacher is None:
        return config
    if config.teacher_views == "cached" and config.symmetric:
        raise BadInputError("--symmetric needs keys of both views, and --teacher-views cached has none: leave one out")
    require_cached(config)
    most = (1 + config.teacher_crops) * (n - 1) if config.teacher_views == "cached" else n
    return dataclasses.replace(config, dictionary="queue", queue_size=max(1, min(config.queue_size, most)))


def require_cached(config: PretrainConfig) -> None:
    """Raise BadInputError for crops of a teacher that encodes nothing before the first step."""
    if config.teacher_crops and config.teacher_views == "live":
        raise BadInputError(
            f"--teacher-crops is {config.teacher_crops}, and with --teacher-views live nothing is encoded before: "
            f"leave one out"
        )
