"""What is noted of the machine that figures come from."""

import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moco.runtime.machine import gpu, machine

H100 = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=79 * 2**30, major=9, minor=0)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, tool: Any) -> None:
    """Let torch say that there are two GPUs, and NVIDIA's tool answer as `tool` does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: H100)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", tool)


def test_a_gpu_is_named_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, number, memory, what it can compute, driver, CUDA and cuDNN; beside the processor."""
    pretend_gpu(monkeypatch, lambda *_, **__: SimpleNamespace(stdout="580.159.04\n580.159.04\n"))
    expected = {
        "gpu": "NVIDIA H100 80GB HBM3", "gpus": 2, "gpu_memory_gib": 79.0, "compute_capability": "9.0",
        "driver": "580.159.04", "cuda": "13.0", "cudnn": 91002,
    }  # fmt: skip
    assert gpu() == expected
    found = machine()
    assert expected.items() <= found.items()
    assert found["cores"] >= 1


@pytest.mark.parametrize("error", [OSError("no such tool"), subprocess.TimeoutExpired("nvidia-smi", 10)])
def test_a_driver_that_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A run must not fail over a note."""

    def fail(*_: object, **__: object) -> None:
        raise error

    pretend_gpu(monkeypatch, fail)
    assert gpu()["driver"] is None


def test_without_a_gpu_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a process without torch does not import it to find out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu() == {}
    assert "gpu" not in machine()
    code = "import sys, moco.runtime.machine as m; m.machine(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
