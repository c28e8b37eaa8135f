"""Each measurement has a process of its own."""

import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from moco.bench import alone as process
from moco.bench.alone import run_alone
from tests.commands.test_bench import TINY


def test_the_waiting_process_imports_no_torch() -> None:
    """Else its memory would be counted in every figure."""
    code = "import sys, moco.commands.bench; print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_process_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory runs out."""

    class Pool:
        """Its processes die."""

        def __init__(self, *arguments: Any, **options: Any) -> None: ...

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *error: Any) -> None: ...

        def submit(self, *arguments: Any) -> Future[Any]:
            """A result that never came."""
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(process, "ProcessPoolExecutor", Pool)
    with pytest.raises(OSError, match="somewhere:measure case: its process was killed"):
        run_alone("somewhere:measure", TINY, Path(), "case")
