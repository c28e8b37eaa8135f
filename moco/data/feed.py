"""Batches whose views are finished on the device that uses them: crops travel there as bytes, one step ahead."""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.core.precision import exact_products
from moco.data.augment import crop_windows
from moco.data.crops import WINDOW, Crops
from moco.data.finishing import finish_views
from moco.data.images import MEMORY_BUDGET, Images
from moco.data.replacement import Replaced
from moco.data.views import Look
from moco.errors import one_line
from moco.runtime.transfers import Sender, Sent, free_memory, start_ahead
from moco.shapes import Bytes, SquareViews

SHARE_OF_MEMORY = 4
"""A set in memory is kept on the GPU if it takes at most this part (1 / n) of the free memory there."""

Finished = tuple[list[SquareViews], Tensor, tuple[Replaced, ...]]
"""The views of each stream, the images' numbers on the device, and which images were replaced."""


@dataclass
class Feed:
    """Finishes the views of a run's batches on a device."""

    images: Images
    look: Look
    device: str
    dtype: torch.dtype = torch.float32
    """What views are stored as; they are computed in fp32."""
    compiled: bool = False
    """Compile what finishes them; where that fails a warning says why, and they are finished as without it."""
    held: Bytes | None = field(init=False)
    """All images (n, 3, H, W) on the device, if they are in memory and fit."""

    def __post_init__(self) -> None:
        self.sender = Sender(self.device)
        self.held = hold_on_device(self.images, self.device)
        mean, std = (torch.tensor(list(values)).view(3, 1, 1) for values in (self.look.mean, self.look.std))
        self._moments = mean.to(self.device), std.to(self.device)
        finish = functools.partial(finish_views, augmentation=self.look.augmentation, dtype=self.dtype)
        self._finish: Callable[..., SquareViews] = compile_or_not(finish) if self.compiled else finish

    def run(self, loaded: Iterator[Crops]) -> Iterator[Finished]:
        """Finish batch after batch; the one after it is on its way meanwhile."""
        for sent, replaced in start_ahead(loaded, self._send):
            yield self._receive(sent, replaced)

    def _send(self, crops: Crops) -> tuple[Sent, tuple[Replaced, ...]]:
        return self.sender.send(crops.pixels, crops.drawn, crops.index), crops.replaced

    def _receive(self, sent: Sent, replaced: tuple[Replaced, ...]) -> Finished:
        pixels, drawn, index = self.sender.receive(sent)
        assert drawn is not None
        assert index is not None
        return self.finish(pixels, drawn, index), index, replaced

    @torch.no_grad()
    @exact_products()
    def finish(self, pixels: Tensor | None, drawn: Tensor, index: Tensor) -> list[SquareViews]:
        """Finish the views of the parts of `Crops`, which are on the device: (n, 3, S, S) for each stream."""
        views, flat = len(drawn), drawn.flatten(0, 1)
        if pixels is None:
            assert self.held is not None
            pixels = self.held.index_select(0, index)
        if pixels.ndim == 4:
            pixels = crop_windows(pixels.repeat(views, 1, 1, 1), flat[:, WINDOW], self.look.size)
        else:
            pixels = pixels.flatten(0, 1)
        return list(self._finish(pixels, flat, *self._moments).chunk(views))


def hold_on_device(images: Images, device: str) -> Bytes | None:
    """Take a set that lies in memory to the device, if it fits there; else None."""
    first = images.stack(np.zeros(1, np.int64)) if len(images) else None
    if first is None:
        return None
    free = free_memory(device)
    if first.nbytes * len(images) > (MEMORY_BUDGET if free is None else free // SHARE_OF_MEMORY):
        return None
    pixels = images.stack(np.arange(len(images)))
    return None if pixels is None else pixels.to(device)


def compile_or_not(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call; where that fails a warning says why, once, and it goes on plain."""
    compiled = torch.compile(function, dynamic=False)
    chosen: Callable[..., Any] | None = None

    def call(*arguments: Any) -> Any:
        nonlocal chosen
        if chosen is not None:
            return chosen(*arguments)
        try:
            result = compiled(*arguments)
            chosen = compiled
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a compiler that is missing or broken raises
            warnings.warn(
                f"views cannot be finished by compiled code here ({one_line(error)[:200]}): they are finished by "
                f"torch's operations, which takes longer on a GPU and is equal within rounding",
                stacklevel=2,
            )
            chosen = function
            result = function(*arguments)
        return result

    return call
