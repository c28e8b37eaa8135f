"""A pretext: maps an item and its random numbers to the pair (x_q, x_k) that belongs together."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.data.images import Images
from moco.data.replacement import ChosenImages
from moco.errors import BadInputError, one_line
from moco.runtime.randomness import Reals, Stream, uniforms

SIDES = {Stream.VIEW_QUERY: "x_q", Stream.VIEW_KEY: "x_k"}


class Draw:
    """The random numbers of one pair, a pure function of (seed, epoch, index): each call gives the next ones."""

    def __init__(self, seed: int, epoch: int, index: int) -> None:
        self.seed, self.epoch, self.index = seed, epoch, index
        self._used = 0

    def uniforms(self, count: int) -> Reals:
        """Draw `count` numbers in (0, 1): (count,)."""
        first, self._used = self._used, self._used + count
        drawn = uniforms(self._used, seed=self.seed, stream=Stream.PRETEXT, epoch=self.epoch, index=self.index)
        return drawn[0, first:]

    def integer(self, below: int) -> int:
        """Draw a whole number from 0 to below - 1, each with the same chance. Raises ValueError if there is none."""
        if below < 1:
            raise ValueError(f"{below}: expected 1 or more")
        return min(int(self.uniforms(1)[0] * below), below - 1)


Pretext = Callable[[Any, Draw], tuple[Any, Any]]
"""An item and its random numbers -> x_q and x_k, each what the encoder takes of one item."""
Pairing = Callable[[ChosenImages, Sequence[Stream]], list[Tensor]]
"""A pretext of whole batches: the chosen items -> for each stream (VIEW_QUERY: x_q, VIEW_KEY: x_k) a tensor (n, ...).

Items that cannot be read are replaced in what is chosen.
"""
Read = Callable[[Images, int], Any]
"""Maps a set and a number to the item. Raises BadInputError if it cannot be read."""


@dataclass(frozen=True)
class EachItem:
    """A pretext of single items made one of whole batches: each is read, paired, checked, and padded with zeros."""

    pretext: Pretext
    read: Read
    like: Tensor
    """What the encoder takes of one item: its type, and its shape. A span of bytes may be shorter, down to one byte."""
    said: str = "--pretext"
    """What errors call the pretext."""

    def __call__(self, chosen: ChosenImages, streams: Sequence[Stream]) -> list[Tensor]:
        """Make x_q and x_k of every row, as far as `streams` ask for them."""
        chosen.replace_known()
        pairs = [self._pair(chosen, row) for row in range(len(chosen.index))]
        return [torch.stack([pair[stream] for pair in pairs]) for stream in streams]

    def _pair(self, chosen: ChosenImages, row: int) -> dict[Stream, Tensor]:
        while True:
            index = int(chosen.index[row])
            try:
                item = self.read(chosen.images, index)
            except BadInputError as error:
                chosen.replace(row, error)
                continue
            name = one_line(chosen.images.name(index))
            pair = self._call(item, Draw(chosen.seed, int(chosen.epochs[row]), index), name)
            return {stream: self._check(x, SIDES[stream], name) for stream, x in zip(SIDES, pair, strict=True)}

    def _call(self, item: Any, draw: Draw, name: str) -> Sequence[Any]:
        """Call the pretext. Raises BadInputError naming the item where it fails, or returns no pair."""
        try:
            pair = self.pretext(item, draw)
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            frames = traceback.extract_tb(error.__traceback__)[1:] or traceback.extract_tb(error.__traceback__)
            last = [frame for frame in frames if frame.filename == frames[0].filename][-1]  # not of what it calls
            where = f"line {last.lineno} of {last.name}"
            raise BadInputError(
                f"{self.said}: {type(error).__name__} for item {name} ({where}: {one_line(error)}): expected a pair "
                f"(x_q, x_k)"
            ) from error
        if not isinstance(pair, tuple | list) or len(pair) != len(SIDES):
            found = f"a {type(pair).__name__} of {len(pair)}" if isinstance(pair, tuple | list) else type(pair).__name__
            raise BadInputError(f"{self.said}: item {name} gives {found}: expected a pair (x_q, x_k)")
        return pair

    def _check(self, x: Any, side: str, name: str) -> Tensor:
        """Return one side of a pair as the encoder takes it. Raises BadInputError where it does not."""
        try:
            x = torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError):
            raise BadInputError(
                f"{self.said}: {side} of item {name} is {type(x).__name__}: expected a tensor or an array"
            ) from None
        ragged = self.like.ndim == 1
        fits = 0 < len(x) <= len(self.like) if ragged and x.ndim == 1 else x.shape == self.like.shape
        if x.dtype != self.like.dtype or not fits:
            shape = f"(1 to {len(self.like)},)" if ragged else str(tuple(self.like.shape))
            empty = " (empty)" if x.numel() == 0 else ""
            raise BadInputError(
                f"{self.said}: {side} of item {name} has shape {tuple(x.shape)}{empty} and type {name_type(x)}: "
                f"expected {shape} of {name_type(self.like)}"
            )
        if x.is_floating_point() and not bool(x.isfinite().all()):
            count = int((~x.isfinite()).sum())
            raise BadInputError(
                f"{self.said}: {side} of item {name} has {count} numbers that are not finite: expected finite ones"
            )
        return F.pad(x, (0, len(self.like) - len(x))) if ragged else x


def name_type(x: Tensor) -> str:
    """Name the type of a tensor's numbers as PyTorch writes it, without `torch.`."""
    return str(x.dtype).removeprefix("torch.")
