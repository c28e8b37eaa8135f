"""The collectives of the method; with one process each of them is the identity."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moco.errors import BadInputError, DivergedError
from moco.runtime import pulse

Value = TypeVar("Value")


def rank() -> int:
    """This process's number, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def start(device: str, timeout: float = 600.0) -> None:
    """Join the other processes where torchrun has started several: NCCL between GPUs, else gloo.

    A collective that waits longer than `timeout` seconds fails.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # small objects and what is saved travel by gloo, also between GPUs
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        pulse.start(rank())


def stop() -> None:
    """Leave the other processes."""
    pulse.stop()
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(module: nn.Module) -> nn.Module:
    """Average the gradients of `module` over the processes whenever it is differentiated."""
    if world_size() == 1:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of another name from torch 2.14 on
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside `wrap`."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def local_block(x: Tensor) -> Tensor:
    """This rank's contiguous share of the rows of x; every rank has one of the same length."""
    return x.chunk(world_size())[rank()] if world_size() > 1 else x


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """The rows of every rank, (n, ...) -> (ranks n, ...), in the order of the ranks, without gradient."""
    if world_size() == 1:
        return x
    blocks = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(blocks, x.contiguous())
    return torch.cat(blocks)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return local_block(grad)


def gather_with_gradient(x: Tensor) -> Tensor:
    """`gather` through which the gradient of every rank's loss flows back to the rank that owns the row."""
    return _Gather.apply(x) if world_size() > 1 else x


@torch.no_grad()
def exchange(x: Tensor, permutation: Tensor) -> Tensor:
    """Rows `permutation` of the global batch: this rank sends each row to where it goes, and gets its own block.

    x is (n, ...), this rank's block of the global batch; permutation (ranks n,) is the same on every rank.
    """
    if world_size() == 1:
        return x[permutation]
    n, me = len(x), rank()
    sources = permutation // n  # the rank that holds each row of the result
    wanted = local_block(permutation)
    outgoing = [block[block // n == me] % n for block in permutation.chunk(world_size())]
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(
        received,
        x[torch.cat(outgoing)].contiguous(),
        output_split_sizes=torch.bincount(local_block(sources), minlength=world_size()).tolist(),
        input_split_sizes=[len(rows) for rows in outgoing],
    )
    arrival = torch.argsort(wanted // n, stable=True)  # what came is in the order of the ranks
    result = torch.empty_like(received)
    result[arrival] = received
    return result


def mean(x: Tensor) -> Tensor:
    """The mean of x over the ranks, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
        x /= world_size()
    return x


@contextmanager
def averaged(module: nn.Module) -> Iterator[None]:
    """With every floating-point buffer (the running statistics) being its mean over the ranks, as long as it lasts.

    Each rank then goes on with its own: what is looked at or saved in between changes nothing.
    """
    floating = [buffer for buffer in module.buffers() if buffer.is_floating_point()] if world_size() > 1 else []
    own = [buffer.clone() for buffer in floating]
    for buffer in floating:
        buffer.copy_(mean(buffer))
    try:
        yield
    finally:
        for buffer, value in zip(floating, own, strict=True):
            buffer.copy_(value)


def on_any_rank(device: str, *flags: bool) -> list[bool]:
    """For each flag, whether it is set on some rank: every rank gets the same answers, by one collective."""
    if world_size() == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(counts)
    return [count > 0 for count in counts.tolist()]


def from_first(make: Callable[[], Value]) -> Value:
    """What `make` returns, or raises of ours, on the first rank, on every rank: only that one reads and decides."""
    if world_size() == 1:
        return make()
    told: list[Any] = [None, None]
    if rank() == 0:
        try:
            told[0] = make()
        except (BadInputError, DivergedError, OSError) as error:
            told[1] = error
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    if told[1] is not None:
        raise told[1]
    value: Value = told[0]
    return value


def gather_values(value: Value) -> list[Value]:
    """What each rank has, in the order of the ranks; for small things."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def require_same(value: object, what: str) -> None:
    """Raise BadInputError on every rank where the ranks do not have the same value."""
    values: list[Any] = [None] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            told = ", ".join(f"{other} on process {number}" for number, other in enumerate(values))
            raise BadInputError(f"{what} must be the same on every process, and is {told}")


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()
