"""Rows change places by a permutation that every host knows: no device is asked, so none is waited for."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from moco.runtime.distributed import rank, world_size


class Route(NamedTuple):
    """What one rank sends and gets, of n rows each."""

    rows: Tensor
    """(n,): its rows in the order in which they leave, those for rank 0 first."""
    outgoing: list[int]
    """How many go to each rank."""
    incoming: list[int]
    """How many come from each rank."""
    places: Tensor
    """(n,): where each row of the result stands among those that came, in the order of the ranks."""


def plan_route(permutation: Tensor, rank: int, ranks: int) -> Route:
    """Plan how a rank gets its block of the rows `permutation` (ranks n,) of the global batch, on the host."""
    n = len(permutation) // ranks
    leaving = [block[block // n == rank] % n for block in permutation.chunk(ranks)]
    sources = permutation.chunk(ranks)[rank] // n
    return Route(
        torch.cat(leaving),
        [len(rows) for rows in leaving],
        torch.bincount(sources, minlength=ranks).tolist(),
        torch.argsort(torch.argsort(sources, stable=True)),
    )


@torch.no_grad()
def exchange(x: Tensor, permutation: Tensor) -> Tensor:
    """Return this rank's block of rows `permutation` of the global batch; each rank sends its rows there.

    x is (n, ...), this rank's block of the global batch; permutation (ranks n,) is the same on every rank, and lies on
    the host.
    """
    if world_size() == 1:
        return x[send(permutation, x.device)]
    route = plan_route(permutation, rank(), world_size())
    rows, places = send(torch.stack([route.rows, route.places]), x.device).unbind()
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(
        received, x[rows].contiguous(), output_split_sizes=route.incoming, input_split_sizes=route.outgoing
    )
    return received[places]


def send(x: Tensor, device: torch.device) -> Tensor:
    """Move numbers from the host to the device; the host does not wait for a GPU to take them."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
