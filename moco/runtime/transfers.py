"""Copies between the host and a device beside what that computes: the host does not wait for them."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Started = TypeVar("Started")


class Sent(NamedTuple):
    """Tensors on their way to a device; None stays None."""

    tensors: tuple[Tensor | None, ...]
    arrived: "torch.cuda.Event | None"


class Sender:
    """Sends tensors to a device: on a GPU from pinned memory and on a stream of its own, else by a plain copy."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]

    def send(self, *tensors: Tensor | None) -> Sent:
        """Begin to copy; pinned tensors are copied while the device goes on computing."""
        if self.stream is None:
            return Sent(tuple(None if tensor is None else tensor.to(self.device) for tensor in tensors), None)
        with torch.cuda.stream(self.stream):
            there = tuple(None if tensor is None else tensor.to(self.device, non_blocking=True) for tensor in tensors)
            return Sent(there, self.stream.record_event())

    def receive(self, sent: Sent) -> tuple[Tensor | None, ...]:
        """Let the device's own stream, not the host, wait until the tensors are there, and return them."""
        if sent.arrived is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_event(sent.arrived)
            for tensor in sent.tensors:
                if tensor is not None:
                    tensor.record_stream(here)
        return sent.tensors


class Fetcher:
    """Brings results from a device into tensors of the host, each one call late, while the device goes on computing."""

    def __init__(self, device: str) -> None:
        self.pinned = torch.device(device).type == "cuda"
        self.pending: tuple[Tensor, Tensor, torch.cuda.Event | None] | None = None

    def fetch(self, result: Tensor, into: Tensor) -> None:
        """Begin to bring `result`, and write the one before it into its place."""
        event = None
        if self.pinned:
            here = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            here.copy_(result, non_blocking=True)
            event = torch.cuda.current_stream(result.device).record_event()
        else:
            here = result
        self.finish()
        self.pending = here, into, event

    def finish(self) -> None:
        """Write what is pending into its place."""
        if self.pending is not None:
            result, into, event = self.pending
            if event is not None:
                event.synchronize()
            into.copy_(result)
            self.pending = None


def start_ahead(items: Iterator[Item], start: Callable[[Item], Started]) -> Iterator[Started]:
    """Yield `start(item)` of each item, begun one item before it is needed.

    An error of `items` is raised after the items before it, as without this.
    """
    begun = deque[Started]()
    try:
        for item in items:
            begun.append(start(item))
            if len(begun) > 1:
                yield begun.popleft()
    except Exception:
        yield from begun
        raise
    yield from begun


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on a GPU; None for another device, which does not say."""
    return torch.cuda.mem_get_info(torch.device(device))[0] if torch.device(device).type == "cuda" else None
