"""Memory that is freed is kept."""

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from moco.runtime.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for step in range(30):
    b"x" * (40 << 20)
    if step == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_later_steps_ask_the_system_for_nothing() -> None:
    """Once the memory is there, twenty more blocks of 40 MiB touch no new page."""
    run = subprocess.run([sys.executable, "-c", STEPS, "kept"], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 40, run.stdout
