"""Builds the library that takes the place of NVIDIA's, and says how a process is to load it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import torch
import triton

HERE, LIBRARIES = Path(__file__).parent, Path(torch.__file__).parent / "lib"
HEADERS = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
CALLING = ("libc10_cuda.so", "libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_python.so")
CALLED = r"\b((?:cuda[A-Z]|__cuda(?:Launch|Push|Pop)|cublas|cudnn|cusolver|cusparse|cufft|nccl)\w*)"
KEPT = ("cudnnGetProperty", "cudnnGetErrorString", "ncclGetVersion")
"""What needs no GPU."""


def lacking() -> str | None:
    """Say what is missing here to build it; None where nothing is, and there is no real GPU."""
    if torch.version.cuda is None or torch.cuda.is_available():
        return "needs torch for CUDA on a machine without a GPU"
    missing = [name for name in ("cc", "nm") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}" if missing else None


def build_runtime(folder: Path) -> dict[str, str]:
    """Build the library in `folder`; return the environment of a process that is to find a GPU that does nothing."""
    written = (HERE / "runtime.c").read_text(encoding="utf-8")
    command = ["nm", "-D", "--undefined-only", *(str(LIBRARIES / name) for name in CALLING)]
    names = set(re.findall(CALLED, subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    names |= set(re.findall(r"CUDAAPI (cu[A-Z]\w*)\(", (HEADERS / "cuda.h").read_text(encoding="utf-8")))
    silent = sorted(names - set(re.findall(r"^\S.*?\b(\w+)\(", written, re.MULTILINE)) - set(KEPT))
    source, library = folder / "nullgpu.c", folder / "libcuda.so.1"  # as torch and Triton call the driver
    source.write_text(written + "".join(f"int {name}(void) {{ return 0; }}\n" for name in silent), encoding="utf-8")
    subprocess.run(["cc", "-w", f"-I{HEADERS}", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return known | {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(folder)}
