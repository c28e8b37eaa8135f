"""Which flags of `moco linear` have no effect with which others."""

from moco.runtime.idle import Idle

IDLE_IN_LINEAR = (
    Idle(("lr", "epochs"), lambda own: "" if own.protocol == "paper" else "it is for --protocol paper"),
    Idle(("penalties", "views"), lambda own: "" if own.protocol == "fast" else "it is for --protocol fast"),
)
