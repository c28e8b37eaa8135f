"""The collectives of the method; with one process each of them is the identity."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """This process's number, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def start(device: str) -> None:
    """Join the other processes where torchrun has started several: NCCL between GPUs, else gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(module: nn.Module) -> nn.Module:
    """Average the gradients of `module` over the processes whenever it is differentiated."""
    if world_size() == 1:
        return module
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


def average_buffers(module: nn.Module) -> None:
    """Replace every floating-point buffer (the running statistics) by its mean over the ranks."""
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(mean(buffer))


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()
