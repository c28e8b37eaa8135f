"""Where and how precisely to compute."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from moco.errors import BadInputError, quote
from moco.runtime.fields import Device, Precision

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats of 16 bits."""
BF16_FROM, TENSOR_CORES_FROM = (8, 0), (7, 0)
"""Compute capabilities of NVIDIA's GPUs: bf16 and TF32 from Ampere on, fast products of fp16 from Volta on."""
WORKSPACE, SAME_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""What makes cuBLAS deterministic: torch reads it at the first product of a process, and never again."""


def resolve_device(device: Device) -> Device:
    """Return the named device, or with `auto` the best there is. Raises BadInputError where it is not there."""
    available: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available[device]:
        here = ", ".join(name for name, there in available.items() if there)
        raise BadInputError(f"--device {device}: not available here, expected one of {here}")
    if device == "cuda":
        os.environ.setdefault(WORKSPACE, SAME_WORKSPACE)  # a teacher may compute before --deterministic is looked at
    return device


def resolve_precision(precision: Precision, device: str) -> Precision:
    """Return the named precision, or with `auto` the fastest that the hardware multiplies natively: bf16, fp16 or fp32.

    fp16 is taken on GPUs alone that lack bf16. Raises BadInputError for tf32 where there is none.
    """
    if precision == "tf32":
        _require_tf32(device)
    if precision != "auto":
        return precision
    if device == "cuda":
        capability = torch.cuda.get_device_capability()
        return "bf16" if capability >= BF16_FROM else "fp16" if capability >= TENSOR_CORES_FROM else "fp32"
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
    return "fp32"


def _require_tf32(device: str) -> None:
    if device != "cuda":
        raise BadInputError(f"--precision tf32 is for NVIDIA's GPUs, and --device is {device}: give fp32")
    capability = torch.cuda.get_device_capability()
    if capability < BF16_FROM:
        raise BadInputError(
            f"--precision tf32: this GPU has compute capability {capability[0]}.{capability[1]}, expected 8.0 or more: "
            f"give fp16 or fp32"
        )


def set_precision(precision: Precision) -> None:
    """Let a GPU round fp32 numbers to TF32 where that is asked for, and nowhere else.

    By itself torch does so in convolutions, not in matrix products.
    """
    _allow_tf32(precision == "tf32", precision == "tf32")


def _allow_tf32(convolutions: bool, products: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 announces another interface, which its own compiler cannot read
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@contextmanager
def choose_algorithms(*, deterministic: bool) -> Iterator[None]:
    """Let a GPU take its fastest convolutions, or algorithms that give the same bits every time, as long as it lasts.

    The fastest ones are timed for each shape (cuDNN's benchmark), so that they may differ between two runs.
    Raises BadInputError naming the operation that has no deterministic algorithm.
    """
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, memory.fill_uninitialized_memory
    same = deterministic or before[0]
    torch.use_deterministic_algorithms(same)
    cudnn.benchmark = not same
    memory.fill_uninitialized_memory = False  # a pass over every new tensor, which only debugging needs
    try:
        yield
    except RuntimeError as error:
        why = _explain_missing_algorithm(str(error)) if deterministic else None
        if why is None:
            raise
        raise BadInputError(f"--deterministic: {why}") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark, memory.fill_uninitialized_memory = before[1:]


def _explain_missing_algorithm(said: str) -> str | None:
    """Say what to do where torch's error is that an operation has no deterministic algorithm; None for other errors."""
    operation, found, _ = said.partition(" does not have a deterministic implementation")
    if found:
        return (
            f"{operation.split()[-1]} has no algorithm that gives the same bits every time on this device: give "
            f"another --arch, or leave --deterministic out"
        )
    if "CuBLAS" in said:
        return (
            f"the first matrix product of this process found {WORKSPACE} at {quote(os.environ.get(WORKSPACE))} or "
            f"missing, expected {SAME_WORKSPACE} (or :16:8): set it before the process starts"
        )
    return None


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Compute matrix products and convolutions in bf16 or fp16; parameters and everything else stay fp32."""
    return torch.autocast(device, dtype=HALVES.get(precision, torch.bfloat16), enabled=precision in HALVES)


def describe_precision(precision: Precision, device: str) -> str:
    """Say what a precision means on a device."""
    if device == "cuda" and precision == "fp32":
        return "fp32 (without TF32) on cuda"
    meaning = {"tf32": " (fp32 rounded for products)", "fp16": " with loss scaling"}.get(precision, "")
    return f"{precision}{meaning} on {device}"


def peak_memory(device: str) -> int:
    """Return the most memory that this process has held, in bytes: on the GPU where that computes, else resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Return how many cores each process of this machine may count on."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, here // _whole_number("LOCAL_WORLD_SIZE"))


def started_processes() -> int:
    """Return how many processes train together, as torchrun says in the environment; 1 without it.

    Raises BadInputError where the environment says it in part only, as a scheduler or a shell may.
    """
    count = _whole_number("WORLD_SIZE")
    if count == 1:
        return count
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise BadInputError(
            f"WORLD_SIZE is {count} in the environment, and {' and '.join(missing)} not set: start the processes with "
            f"torchrun, or unset WORLD_SIZE for one process"
        )
    if _whole_number("RANK", least=0) >= count:
        raise BadInputError(f"RANK is {os.environ['RANK']} in the environment, expected less than WORLD_SIZE, {count}")
    _whole_number("MASTER_PORT")
    return count


def own_gpu() -> int:
    """Return the number of this process's GPU, as torchrun says in the environment where several processes train.

    Raises BadInputError where it does not say it, or there is no such GPU.
    """
    if not os.environ.get("LOCAL_RANK"):
        raise BadInputError(
            "LOCAL_RANK is not set in the environment, which says which GPU a process takes: start the processes with "
            "torchrun, or set it (0 for the first process of a machine)"
        )
    number, gpus = _whole_number("LOCAL_RANK", least=0), torch.cuda.device_count()
    if number >= gpus:
        raise BadInputError(
            f"LOCAL_RANK is {number} in the environment, and this process sees {gpus} GPU{'s' if gpus != 1 else ''}: "
            f"start no more processes on a machine than it has GPUs"
        )
    return number


def _whole_number(name: str, *, least: int = 1) -> int:
    given = os.environ.get(name, "1")
    if not (given.isascii() and given.isdecimal() and least <= int(given) < 10**6):
        raise BadInputError(
            f"{name} is {quote(given)} in the environment, expected a whole number from {least}: unset it"
        )
    return int(given)


def set_threads(threads: int | None) -> int:
    """Use this many threads inside an operation, or all cores; return the number."""
    torch.set_num_threads(threads or cores())
    return torch.get_num_threads()


@contextmanager
def preserve_torch_state(device: str) -> Iterator[None]:
    """Leave the random state of the CPU and of the GPU in use, the number of threads and TF32 as the caller had them.

    Inside, no fp32 number is rounded to TF32 before `set_precision` allows that.
    """
    threads = torch.get_num_threads()
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    set_precision("fp32")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            _allow_tf32(*tf32)
