"""Makes steps of the loop on tensors of a GPU that is not there: shapes, types and devices are real, values are not.

torch's FakeTensorMode refuses an operation whose tensors lie on different devices, or whose result a host would have
to know. A process of its own, into which `cudart.c` is loaded before torch.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moco.core import group_kernels
from moco.data.catalog import load
from moco.data.loader import Batch
from moco.pretraining import loop
from moco.pretraining.monitor import Watch
from moco.pretraining.prepare import build_batches, resolve_config
from moco.pretraining.recipes import recipe
from tests.fakegpu.cases import CASES

SMALL: dict[str, Any] = {
    "data": "digits", "batch_size": 16, "queue_size": 32, "bn_groups": 2, "arch": "resnet18-w4", "image_size": 8,
    "view_size": None, "init": "torch", "optimizer": "sgd", "dictionary": "queue", "workers": 0, "compile": "off",
    "log_every": 2, "knn_every": 0, "checkpoint_every": 0, "max_steps": 1000, "json": True,
}  # fmt: skip
KERNELS = ("_sum_values", "_normalize", "_sum_gradients", "_propagate")
STEPS = 3


class EnoughError(Exception):
    """Leaves the loop."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers for the GPU; collects what a host would wait for, and lets through what has no fake."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        devices = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        if name == "aten._local_scalar_dense.default":
            self.found += ["a number"] * (devices == {"cuda"})
            return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 1.0)
        if name == "aten._pin_memory.default":
            return args[0]
        if name.startswith("aten._fused_"):
            assert devices == {"cuda"}, f"{name} on {devices}"
            return None
        if name == "aten._to_copy.default" and not kwargs.get("non_blocking"):
            self.found += ["a copy"] * (args[0].device.type != torch.device(kwargs.get("device", args[0].device)).type)
        if name == "aten.copy_.default" and not (args[2:] and args[2]):
            self.found += ["a copy"] * (len(devices) > 1)
        return func(*args, **kwargs)

    def read(self, tensor: Tensor) -> Any:
        """Give a list, for which a host waits once."""
        self.found += ["a list"] * tensor.is_cuda
        return np.ones(tuple(tensor.shape)).tolist()


class Numbers(TorchFunctionMode):
    """Gives numbers where there are none, and copies tensors by an operation instead of by their memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "numpy":
            return np.zeros(tuple(args[0].shape), np.float32)
        if name == "__deepcopy__":
            return args[1].setdefault(id(args[0]), args[0].detach().clone())
        return func(*args, **(kwargs or {}))


class Kernel:
    """Stands for one in Triton."""

    def __getitem__(self, grid: object) -> "Kernel":
        """Return it for any grid."""
        return self

    def __call__(self, *given: object, **constants: object) -> None:
        """Check where it is given tensors."""
        assert all(one.is_cuda for one in given if isinstance(one, Tensor))


def move(module: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Change what a module holds; by itself it would exchange the memory of its tensors."""
    for child in module.children():
        move(child, function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            vars(buffer)["constant"] = None  # its known value would be sent to the GPU
            module._buffers[name] = function(buffer)
    return module


def on_gpu(tensor: Tensor) -> Tensor:
    """Make a fake one of its kind."""
    return torch.empty_like(tensor, device="cuda")


class FakeBatches:
    """A batch on the GPU, some times; then it leaves the loop."""

    steps_per_epoch = 100

    def __init__(self, batch: Batch, waits: Waits) -> None:
        self.batch, self.waits, self.found = batch, waits, list[list[str]]()

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield it; note what each step waited for."""
        x_q, x_k, index = self.batch[:3]
        batch = Batch(on_gpu(x_q), None if x_k is None else on_gpu(x_k), on_gpu(index))
        for _ in range(STEPS):
            self.waits.found = []
            yield batch
            self.found.append(self.waits.found)
        raise EnoughError


def make_steps(**values: Any) -> list[list[str]]:
    """Make some steps of the loop; return what each waited for."""
    images, waits = load("digits")["train"], Waits()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        given = {**SMALL, **values, "out": Path(folder) / "run"}
        here = resolve_config(recipe("quick", device="cpu", **given), images)
        batches = FakeBatches(build_batches(here, images)[0], waits)
        for holder, name, stand_in in (
            (nn.Module, "_apply", lambda module, function, recurse=True: move(module, function)),
            (Watch, "begin", lambda watch, step: None),
            (torch.cuda, "current_blas_handle", lambda: 0),
            (FakeTensor, "tolist", lambda tensor: waits.read(tensor)),
            *((group_kernels, name, Kernel()) for name in KERNELS),
        ):
            stack.enter_context(mock.patch.object(holder, name, stand_in))
        stack.enter_context(contextlib.suppress(EnoughError))
        for mode in (FakeTensorMode(allow_non_fake_inputs=True), waits, Numbers()):
            stack.enter_context(mode)
        loop.pretrain(recipe("quick", device="cuda", **given), images, batches=batches)
    return batches.found


if __name__ == "__main__":
    for case in map(int, sys.argv[1:]):
        print("waits", case, *map(len, make_steps(**CASES[case])))
