"""`moco`, of whose processes the last alone is asked to stop after its second step; for torchrun."""

import os
import signal
import sys
from typing import Any

import pytest

from moco.cli import main
from moco.runtime import distributed
from moco.transfer import record

once = record.Record.after_step


def after_step(self: record.Record, step: int, *given: Any, save: bool) -> None:
    """As it was, and a signal."""
    once(self, step, *given, save=save)
    if step == 2 and distributed.rank() == distributed.world_size() - 1:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    pytest.MonkeyPatch().setattr(record.Record, "after_step", after_step)
    sys.exit(main())
