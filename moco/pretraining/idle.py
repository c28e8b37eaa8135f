"""Which flags of `moco pretrain` have no effect with which others."""

from moco.pretraining.config import PretrainConfig
from moco.runtime.idle import Idle

BYTES = "bytes-"
"""How the names of networks for documents begin."""


def _documents(config: PretrainConfig) -> str:
    return f"{config.arch} takes documents" if (config.arch or "").startswith(BYTES) else ""


def _without_teacher(config: PretrainConfig) -> str:
    return "" if config.teacher else "there is no --teacher"


def _no_f_k(config: PretrainConfig) -> str:
    if config.teacher:
        return "the keys are the teacher's"
    return "" if config.dictionary == "queue" else f"--dictionary {config.dictionary} has no momentum encoder"


def _no_queue(config: PretrainConfig) -> str:
    unused = config.dictionary == "in-batch" and config.queue_size  # none at all is refused
    return "with --dictionary in-batch it is the batch size - 1" if unused else ""


OF_IMAGES = (
    "augment", "flip", "quarter_turns", "decode", "mean", "std", "white_level", "most_pixels", "channels", "bands",
    "no_data", "stem",
)  # fmt: skip
IDLE = (
    Idle(OF_IMAGES, _documents),
    Idle(("teacher_views", "teacher_crops", "teacher_size", "teacher_temperature"), _without_teacher),
    Idle(("key_momentum", "key_momentum_schedule"), _no_f_k),
    Idle(("queue_size",), _no_queue),
    Idle(
        ("bank_momentum",), lambda own: "" if own.dictionary == "memory-bank" else "it is for --dictionary memory-bank"
    ),
    Idle(("within",), lambda own: "" if own.pretext == "neighbours" else "it is for --pretext neighbours"),
    Idle(("hidden", "patch"), lambda own: "" if own.pretext == "masked" else "it is for --pretext masked"),
    Idle(("base_lr",), lambda own: "" if own.lr is None else "--lr is given"),
    Idle(("milestones", "lr_decay"), lambda own: "" if own.schedule == "step" else f"--schedule is {own.schedule}"),
    Idle(
        ("muon_lr", "muon_momentum"), lambda own: "" if own.optimizer == "muon" else f"--optimizer is {own.optimizer}"
    ),
    Idle(("epochs",), lambda own: "" if own.max_steps is None else "--max-steps is given"),
    Idle(("end_spare",), lambda own: "" if own.end_after is not None else "there is no --end-after"),
)
