"""Which device and precision `auto` takes, and what is refused."""

import os
import sys
from typing import Any

import pytest
import torch

from moco.errors import BadInputError
from moco.runtime.device import (
    autocast,
    choose_algorithms,
    cores,
    describe_precision,
    own_gpu,
    peak_memory,
    preserve_torch_state,
    resolve_device,
    resolve_precision,
    set_precision,
    set_threads,
    started_processes,
)
from moco.runtime.fields import Device


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    """Let torch say that these devices are there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "expected"), [
    (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"),
])  # fmt: skip
def test_auto_takes_the_best_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str) -> None:
    """CUDA before MPS before the CPU; a device that is named is taken though a better one is there."""
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto") == expected
    assert resolve_device("cpu") == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what is."""
    pretend(monkeypatch, cuda=False, mps=True)
    with pytest.raises(BadInputError, match="--device cuda: not available here, expected one of mps, cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize(("capability", "expected"), [
    ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16"),
])  # fmt: skip
def test_auto_precision_on_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str) -> None:
    """bf16 from Ampere on; a V100 (7.0) and a T4 (7.5) multiply fp16 in tensor cores."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert resolve_precision("auto", "cuda") == expected


@pytest.mark.parametrize(("capabilities", "expected"), [
    ({}, "fp32"), ({"avx512_f": True, "avx512_bf16": False}, "fp32"), ({"avx512_bf16": True}, "bf16"),
    ({"amx_bf16": True}, "bf16"),
])  # fmt: skip
def test_auto_precision_on_cpu(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str) -> None:
    """bf16 only where the processor multiplies it natively."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", "cpu") == expected


def test_named_precision_is_taken() -> None:
    """Nothing is second-guessed; elsewhere `auto` is fp32."""
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("fp32", "cuda") == "fp32"
    assert resolve_precision("auto", "mps") == "fp32"


@pytest.mark.parametrize(("local", "message"), [
    (None, "LOCAL_RANK is not set in the environment"), ("x", "LOCAL_RANK is 'x' in the environment, expected a whole"),
    ("2", "LOCAL_RANK is 2 in the environment, and this process sees 2 GPUs: start no more processes"),
])  # fmt: skip
def test_a_process_without_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, local: str | None, message: str) -> None:
    """As where a scheduler sets the other variables alone, or starts more processes than there are GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_gpu() == 1
    monkeypatch.setenv("LOCAL_RANK", local) if local else monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(BadInputError, match=message):
        own_gpu()


def test_tf32_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, and on a GPU before Ampere."""
    with pytest.raises(BadInputError, match="--precision tf32 is for NVIDIA's GPUs, and --device is cpu: give fp32"):
        resolve_precision("tf32", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(BadInputError, match=r"tf32: this GPU has compute capability 7.5, expected 8.0 or more"):
        resolve_precision("tf32", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert resolve_precision("tf32", "cuda") == "tf32"


def tf32() -> tuple[bool, bool]:
    """Whether convolutions and products of fp32 numbers round them."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_fp32_is_fp32_unless_tf32_is_asked_for() -> None:
    """By itself torch rounds in convolutions; ours round with --precision tf32, and the caller's settings come back."""
    before = tf32()
    with preserve_torch_state("cpu"):
        assert tf32() == (False, False)
        set_precision("tf32")
        assert tf32() == (True, True)
        set_precision("bf16")
        assert tf32() == (False, False)
    assert tf32() == before


def test_a_precision_is_described() -> None:
    """What a person reads before the first step."""
    assert describe_precision("fp32", "cpu") == "fp32 on cpu"
    assert describe_precision("fp32", "cuda") == "fp32 (without TF32) on cuda"
    assert describe_precision("tf32", "cuda") == "tf32 (fp32 rounded for products) on cuda"
    assert describe_precision("fp16", "cuda") == "fp16 with loss scaling on cuda"


def test_autocast_multiplies_in_the_precision() -> None:
    """Products are bf16 inside and parameters stay fp32; with fp32 nothing changes."""
    layer = torch.nn.Linear(3, 3)
    x = torch.ones(2, 3)
    with autocast("bf16", "cpu"):
        assert layer(x).dtype == torch.bfloat16
    with autocast("fp16", "cpu"):
        assert layer(x).dtype == torch.float16
    with autocast("fp32", "cpu"):
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the number of cores is not settable per process")
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the processes that torchrun started here counts on its share, and on one core at least."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores() == 1


def test_threads_are_set_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A given number is taken, none means all cores."""
    monkeypatch.setattr("moco.runtime.device.cores", lambda: 3)
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == torch.get_num_threads() == 1
        assert set_threads(None) == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_peak_memory_counts_what_was_held() -> None:
    """A tensor of 256 MiB that is gone again is still in it."""
    torch.ones(2**26).sum()
    assert 2**28 < peak_memory("cpu") < 2**36


def test_isolated_puts_back_what_the_caller_had() -> None:
    """Also where an error ends it."""
    threads, before = torch.get_num_threads(), torch.get_rng_state()

    def fail() -> None:
        with preserve_torch_state("cpu"):
            torch.set_num_threads(threads + 1)
            torch.rand(3)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '' in the environment"),
        ({"WORLD_SIZE": "0"}, "expected a whole number from 1"),
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"},
            "MASTER_ADDR not set: start the processes with torchrun",
        ),
        ({"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is 'x' in the environment"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "expected less than WORLD_SIZE, 2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ],
)
def test_half_an_environment_is_named(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str) -> None:
    """As a scheduler's job or a shell that ran torchrun before leaves it."""
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert started_processes() == 1
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=said):
        started_processes()


def test_cores_of_a_broken_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, where the number of processes of this machine is none."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    with pytest.raises(BadInputError, match="LOCAL_WORLD_SIZE is 'many'"):
        cores()


def algorithms() -> tuple[bool, bool, bool]:
    """Whether a GPU gives the same bits every time, takes the fastest convolutions, and fills new tensors."""
    memory: Any = torch.utils.deterministic
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, memory.fill_uninitialized_memory


def test_algorithms_are_chosen_as_long_as_it_lasts() -> None:
    """The fastest convolutions, or the same bits; never a pass over every new tensor, which torch adds by itself."""
    before = algorithms()
    assert before == (False, False, True)
    with choose_algorithms(deterministic=False):
        assert algorithms() == (False, True, False)
    with choose_algorithms(deterministic=True):
        assert algorithms() == (True, False, False)
        with choose_algorithms(deterministic=False):  # a caller's own choice stays
            assert algorithms() == (True, False, False)
    assert algorithms() == before


def test_cublas_is_told_before_a_process_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever asks for the GPU first, since torch reads it once; what the user set stays."""
    pretend(monkeypatch, cuda=True, mps=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    resolve_device("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    devices: tuple[Device, ...] = ("auto", "cuda")
    for device in devices:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        assert resolve_device(device) == "cuda"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    resolve_device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(("said", "named"), [
    ("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set ...",
     "--deterministic: adaptive_avg_pool2d_backward_cuda has no algorithm"),
    ("Deterministic behavior was enabled with ..., but this operation is not deterministic because it uses CuBLAS and "
     "you have CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment variable ...",
     "--deterministic: the first matrix product of this process found CUBLAS_WORKSPACE_CONFIG at ':0:0' or missing"),
])  # fmt: skip
def test_an_operation_without_such_an_algorithm_is_named(
    monkeypatch: pytest.MonkeyPatch, said: str, named: str
) -> None:
    """What torch raises becomes bad input; any other error, and the same one where it was not wanted, stays."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(BadInputError, match=named), choose_algorithms(deterministic=True):
        raise RuntimeError(said)
    for deterministic, error in ((False, said), (True, "another")):
        with pytest.raises(RuntimeError, match=error[:7]), choose_algorithms(deterministic=deterministic):
            raise RuntimeError(error)
    assert not torch.are_deterministic_algorithms_enabled()
