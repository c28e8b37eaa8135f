"""torchvision as every command imports it."""

import subprocess
import sys

import pytest

from tests.slow import slow

IMPORTS = """
import sys
from moco.commands import auto, duplicates, embed, export, groups, knn, linear, outliers, report, search, select
assert "torchvision" in sys.modules
assert "torch._dynamo" not in sys.modules, "the compiler is imported"
import torch
from torchvision.ops import roi_align
from torchvision.ops.roi_align import is_compile_supported
boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]])]
assert roi_align(torch.ones(1, 1, 4, 4), boxes, 1).item() == 1
"""
COMPILES = """
import torch._dynamo.utils
assert is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
assert torch._dynamo.utils.__file__
torch.compile(torch.nn.Identity(), backend="eager")(torch.ones(1))
"""


@pytest.mark.parametrize("program", [IMPORTS, slow(IMPORTS + COMPILES)], ids=["imports", "compiles"])
def test_commands_start_without_the_compiler(program: str) -> None:
    """What torchvision takes from it works all the same, and so does the compiler."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
