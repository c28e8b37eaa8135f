"""What a figure was measured on."""

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, GPU, torch, what else ran in the minute before, date.

    A process without torch, which knows no GPU, leaves the GPU to those that it starts.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "processor": processor(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        **(gpu() if "torch" in sys.modules else {}),
        "torch": version("torch"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def gpu() -> dict[str, Any]:
    """Describe an NVIDIA GPU as far as figures depend on it: name, memory, driver, CUDA, cuDNN; empty without one."""
    import torch  # here, for those who wait for processes that compute (moco bench, moco study) do without it

    if not torch.cuda.is_available():
        return {}
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": about.name,
        "gpus": torch.cuda.device_count(),
        "gpu_memory_gib": round(about.total_memory / 2**30, 1),
        "compute_capability": f"{about.major}.{about.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _driver() -> str | None:
    """The version of NVIDIA's driver, where its own tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
