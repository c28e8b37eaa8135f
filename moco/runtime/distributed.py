"""The collectives of the method; with one process each of them is the identity."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.nn.parallel import DistributedDataParallel

from moco.errors import BadInputError, DivergedError, StalledError
from moco.runtime import pulse
from moco.runtime.device import own_gpu, started_processes

Value = TypeVar("Value")
RUNNING = ("running_mean", "running_var")
"""How the names of batch normalisation's running statistics end: the one thing that differs between ranks."""
GRACE = 120.0
"""Seconds after the time-out before NCCL ends the process: until then the flags of the hosts have failed, in words."""
_hosts: Any = None
"""Where the hosts agree, if GPUs have the usual group."""
PIECE_BYTES = 1 << 27
"""How much of a table each rank hands over at a time when the whole is collected."""


def rank() -> int:
    """Return this process's number, 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join_processes(device: str, timeout: float = 600.0) -> None:
    """Join the other processes where torchrun has started several: NCCL between GPUs, else gloo.

    A collective that takes longer than `timeout` seconds fails (NCCL: later). BadInputError for half an environment.
    """
    global _hosts
    if started_processes() > 1 and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(own_gpu())
        # gloo carries small objects and checkpoints, also between GPUs
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        try:
            patience = limit + timedelta(seconds=GRACE) if device == "cuda" else limit
            dist.init_process_group(backend, timeout=patience, **_meeting_point(timeout))
            _hosts = dist.new_group(backend="gloo", timeout=limit) if device == "cuda" else None
        except RuntimeError as error:
            who = f"process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}"
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise StalledError(
                f"{who} did not meet the others at {where} within {timeout:g} s ({str(error).splitlines()[0]}): "
                f"are all of them started, and can they reach each other?"
            ) from error
        pulse.start_pulse(rank())


def _meeting_point(timeout: float) -> dict[str, Any]:
    """What of torchrun's store belongs to this attempt; torch's own way where the store is not torchrun's.

    torch 2.14 keeps the store over restarts, with the addresses of the processes that are gone. Only one node knows the
    number of the attempt: several need $TORCH_DISABLE_SHARE_RDZV_TCP_STORE (docs/distributed.md), and are warned.
    """
    given = os.environ
    if given.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    if given["GROUP_WORLD_SIZE"] != "1":
        if given["TORCHELASTIC_MAX_RESTARTS"] != "0" and given["RANK"] == "0":
            warnings.warn("a lost node can be replaced only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: "
                          "set it before torchrun", stacklevel=2)  # fmt: skip
        return {}
    address, port = given["MASTER_ADDR"], int(given["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout))
    part = PrefixStore(f"attempt {given['TORCHELASTIC_RESTART_COUNT']}", store)
    return {"store": part, "rank": int(given["RANK"]), "world_size": int(given["WORLD_SIZE"])}


def leave_processes() -> None:
    """Leave the other processes."""
    global _hosts
    pulse.stop_pulse()
    if dist.is_initialized():
        _hosts = None
        dist.destroy_process_group()


def wrap(module: nn.Module, **options: Any) -> nn.Module:
    """Average the gradients of `module` over the processes whenever it is differentiated, with torch's `options`."""
    if world_size() == 1:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of another name from torch 2.14 on
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True, **options)


def average_gradients(*modules: nn.Module, now: bool) -> None:
    """Let what `wrap` gave average gradients after the next forward pass; where it is not `now`, only add them up."""
    for module in modules:
        if isinstance(module, DistributedDataParallel):
            module.require_backward_grad_sync = now  # as its no_sync() does, without a block of its own


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside `wrap`."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def local_block(x: Tensor) -> Tensor:
    """Return this rank's contiguous share of the rows of x; all shares have one length."""
    return x.chunk(world_size())[rank()] if world_size() > 1 else x


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Return the rows of every rank, (n, ...) -> (ranks n, ...), in the order of the ranks, without gradient."""
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
    """Gather as `gather` does, and send gradients of every rank's loss back to the owner of a row."""
    return _Gather.apply(x) if world_size() > 1 else x


def mean(x: Tensor) -> Tensor:
    """Return the mean of x over the ranks, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
        x /= world_size()
    return x


@contextmanager
def average_statistics(*modules: nn.Module) -> Iterator[None]:
    """Replace the running statistics of the modules by their means over the ranks, as long as it lasts.

    Each rank then goes on with its own: what is looked at or saved in between changes nothing.
    """
    named = (pair for module in modules if world_size() > 1 for pair in module.named_buffers())
    statistics = [buffer for name, buffer in named if name.endswith(RUNNING)]
    own = torch.cat([buffer.flatten() for buffer in statistics]) if statistics else None
    if own is not None:
        _fill(statistics, mean(own))
    try:
        yield
    finally:
        if own is not None:
            _fill(statistics, own)


def _fill(tensors: list[Tensor], numbers: Tensor) -> None:
    parts = torch.split(numbers, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def on_any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether it is set on any rank: the same answers everywhere, by one collective.

    It goes between the hosts, where none waits for its GPU, and so fails by the time-out, before NCCL ends the process.
    """
    if world_size() == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(counts, group=_hosts)
    return [count > 0 for count in counts.tolist()]


def from_first(make: Callable[[], Value]) -> Value:
    """Call `make` on the first rank only, and return its result, or raise its BadInputError, on every rank."""
    if world_size() == 1:
        return make()
    answer: list[Any] = [None, None]  # the value, or the error
    if rank() == 0:
        try:
            answer[0] = make()
        except (BadInputError, DivergedError, OSError) as error:
            answer[1] = error
    with pulse.watch_collectives(rank(), world_size()):
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if answer[1] is not None:
        raise answer[1]
    value: Value = answer[0]
    return value


def gather_values(value: Value) -> list[Value]:
    """Return what each rank has, in the order of the ranks; for small things."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def require_same_values(values: Mapping[str, object]) -> None:
    """Raise BadInputError on every rank, naming the first of the values that is not the same on all of them."""
    every = gather_values(dict(values))
    for what in values:
        if any(other[what] != every[0][what] for other in every):
            found = ", ".join(f"{other[what]} on process {number}" for number, other in enumerate(every))
            raise BadInputError(
                f"{what} must be the same on every process, and is {found}: start all with the same command and data"
            )


def share(count: int) -> range:
    """Return this rank's contiguous share of `count` rows; the last ranks' may be shorter, or empty."""
    size = -(-count // world_size())
    return range(min(rank() * size, count), min((rank() + 1) * size, count))


@torch.no_grad()
def fetch(own: Tensor, rows: range, wanted: Tensor) -> Tensor:
    """Fetch rows `wanted` (n,), the same on all ranks, of a table whose `rows` this rank holds as `own`.

    Exact: all ranks but the owner add zeros. The host does not ask a GPU which rows are held.
    """
    found = own.new_zeros(len(wanted), *own.shape[1:])
    if len(own):
        held = ((wanted >= rows.start) & (wanted < rows.stop)).view(-1, *(1,) * (own.dim() - 1))
        found = torch.where(held, own[(wanted - rows.start).clamp(0, len(own) - 1)], found)
    if world_size() > 1:
        dist.all_reduce(found)
    return found


@torch.no_grad()
def collect(own: Tensor, count: int) -> Tensor:
    """Gather a table of `count` rows, of which every rank holds its `share`, on the first rank's CPU; else empty.

    It goes in pieces, so that only the first rank ever holds more than its own.
    """
    size, first = -(-count // world_size()), rank() == 0
    whole = torch.empty(world_size() * size if first else 0, *own.shape[1:], dtype=own.dtype)
    piece = _rows_at_a_time(own)
    for start in range(0, size, piece):
        stop = min(start + piece, size)
        sent = torch.zeros(stop - start, *own.shape[1:], dtype=own.dtype)
        sent[: len(own[start:stop])] = own[start:stop]
        blocks = [whole[number * size :][start:stop] for number in range(world_size())]
        if world_size() > 1:
            dist.gather(sent, blocks if first else None)
        else:
            blocks[0].copy_(sent)
    return whole[:count]


def _rows_at_a_time(own: Tensor) -> int:
    return max(1, PIECE_BYTES // max(1, own.shape[1:].numel() * own.itemsize))


@torch.no_grad()
def deal(whole: Tensor | None, own: Tensor, count: int) -> None:
    """Fill `own`, this rank's `share` of a table of `count` rows, from the whole, which only the first rank has."""
    size = -(-count // world_size())
    piece = _rows_at_a_time(own)
    for start in range(0, size, piece):
        stop = min(start + piece, size)
        got = torch.zeros(stop - start, *own.shape[1:], dtype=own.dtype)
        blocks: list[Tensor] | None = None
        if whole is not None:
            blocks = [torch.zeros_like(got) for _ in range(world_size())]
            for number, block in enumerate(blocks):
                rows = whole[number * size + start : number * size + stop]
                block[: len(rows)] = rows
        if world_size() > 1:
            dist.scatter(got, blocks)
        elif blocks is not None:
            got = blocks[0]
        own[start:stop] = got[: len(own[start:stop])]


def barrier() -> None:
    """Wait for every rank: the hosts meet, and leave their GPUs alone."""
    if world_size() > 1:
        dist.barrier(group=_hosts)
