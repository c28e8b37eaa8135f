"""Compiles the kernels for BN groups for GPUs that are not there; prints what their machine code does.

A process of its own: where Triton's kernels are run by numpy, as in the other tests, none can be compiled.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moco.core import group_kernels

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
KERNELS = (
    group_kernels._sum_values, group_kernels._normalize, group_kernels._sum_gradients, group_kernels._propagate,
)  # fmt: skip
CONSTANTS = {"eps": 1e-5, "splits": 16, "block_r": 64, "block_c": 64, "wide": tl.float32}
INTEGERS = ("rows", "channels")
IMAGES = ("x", "y", "grad_y", "grad_x")


def main() -> None:
    """Print capability, type, kernel, bytes of registers spilled, and loads of 16 bytes: Turing, Ampere, Hopper."""
    for capability, number in ((75, "fp16"), (80, "fp32"), (90, "bf16")):
        types = dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(IMAGES, f"*{number}")
        for kernel in KERNELS:
            names = kernel.arg_names
            own = {(names.index(name),): value for name, value in CONSTANTS.items() if name in names}
            signature = {name: "constexpr" if name in CONSTANTS else types.get(name, "*fp32") for name in names}
            aligned = {(place,): [["tt.divisibility", 16]] for place in range(len(names)) if (place,) not in own}
            source = ASTSource(kernel, signature, own, aligned)
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            loads = re.findall(r"ld\.global\.\S+", compiled.asm["ptx"])
            print(
                capability,
                number,
                kernel.fn.__name__,
                spilled(compiled.asm["cubin"]),
                sum(".v4.b32" in one for one in loads),
            )


def spilled(machine_code: bytes) -> str:
    """Ask NVIDIA's tool, which comes with Triton, for the stack of a kernel in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        said = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"STACK:(\d+)", said.stdout + said.stderr)
    assert found, said
    return found[1]


if __name__ == "__main__":
    main()
