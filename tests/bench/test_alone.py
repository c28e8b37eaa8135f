"""Each measurement has a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moco.bench.alone import run_alone
from moco.bench.config import BenchConfig
from moco.errors import BadInputError

CONFIG = BenchConfig(device="cpu")
"""Each process imports this module, so nothing here imports torch."""


def test_the_waiting_process_imports_no_torch() -> None:
    """Else its memory would be counted in every figure."""
    code = "import sys, moco.commands.bench; print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def end(config: Any, folder: Path, case: str) -> dict[str, Any]:
    """A measurement whose process ends before its answer, after a library's last words."""
    os.write(2, b"first\nlibrary: the GPU is \x1b lost\n")
    if case == "exit":
        os._exit(7)
    if case == "refuse":
        raise BadInputError("--lr is odd")
    os.kill(os.getpid(), signal.Signals[case])
    return {}


@pytest.mark.parametrize(
    ("case", "how"),
    [("SIGKILL", "was ended by SIGKILL, which .* memory runs out"), ("SIGSEGV", "was ended by SIGSEGV"),
     ("exit", "ended with exit code 7")],
)  # fmt: skip
def test_a_process_that_dies_says_how(case: str, how: str) -> None:
    """Only of SIGKILL it may be for want of memory; what a library said last is repeated."""
    with pytest.raises(OSError, match=rf"measuring .*:end {case}: its process {how}; it said: library: .*x1b lost$"):
        run_alone("tests.bench.test_alone:end", CONFIG, Path(), case)


def test_what_a_measurement_raises_is_raised() -> None:
    """As if it were called here."""
    with pytest.raises(BadInputError, match="--lr is odd"):
        run_alone("tests.bench.test_alone:end", CONFIG, Path(), "refuse")
