"""The loop on tensors of a GPU that is not there: every operation finds its tensors where it expects them."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fakegpu.cases import CASES
from tests.slow import slow

triton = pytest.importorskip("triton")
HERE = Path(__file__).parents[1] / "fakegpu"
HEADERS = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
CC = shutil.which("cc")

pytestmark = pytest.mark.skipif(
    CC is None or torch.version.cuda is None or platform.system() != "Linux" or torch.cuda.is_available(),
    reason="needs a C compiler and torch for CUDA, on a machine without a GPU",
)


@pytest.mark.parametrize("cases", [range(2), slow(range(2, len(CASES)))], ids=str)
def test_steps(tmp_path: Path, cases: range) -> None:
    """Nothing waits in a step, but once where the step is logged, and for the scale of fp16."""
    library = tmp_path / "libcuda.so.1"  # torch asks for NVIDIA's driver by this name
    command = [str(CC), f"-I{HEADERS}", "-shared", "-fPIC", "-o", str(library), str(HERE / "cudart.c")]
    subprocess.run(command, check=True)
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    known |= {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fakegpu.steps", *map(str, cases)],
        capture_output=True, text=True, env=known, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    found = [line.removeprefix("waits ") for line in said.stdout.splitlines() if line.startswith("waits")]
    expected = {case: "1 3 1" if CASES[case].get("precision") == "fp16" else "0 1 0" for case in cases}
    assert found == [f"{case} {waits}" for case, waits in expected.items()]
