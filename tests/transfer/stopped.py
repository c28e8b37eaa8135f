"""`moco`, of whose processes the last alone is asked to stop after its second step; for torchrun."""

import os
import signal
import sys

import pytest

from moco.cli import main
from moco.runtime import distributed
from moco.runtime.run import Run

once = Run.advance


def advance(self: Run, step: int) -> None:
    """As it was, and a signal."""
    once(self, step)
    if step == 2 and distributed.rank() == distributed.world_size() - 1:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    pytest.MonkeyPatch().setattr(Run, "advance", advance)
    sys.exit(main())
