"""Pretexts of images, whole batches at a time: query and key of different images, or a query that shows less."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moco.data.images import Images
from moco.data.replacement import ChosenImages
from moco.data.views import Look, make_views
from moco.errors import BadInputError, one_line
from moco.runtime.randomness import Integers, Stream, uniforms
from moco.shapes import SquareViews

Partner = Callable[[Integers, Integers, int], Integers]
"""Images (n,), the epoch of each (n,), and the seed -> the image of each one's key (n,)."""


@dataclass(frozen=True)
class Hidden:
    """The patches of a query that are set to the mean, which is 0 in a normalised view."""

    share: float
    patch: int
    """Pixels along a side of a patch."""

    def count(self, size: int) -> tuple[int, int]:
        """Count the hidden patches of a view of `size` pixels, and all of them."""
        patches = (-(-size // self.patch)) ** 2
        return round(self.share * patches), patches

    def hide(self, x: SquareViews, index: Integers, epochs: Integers, seed: int) -> SquareViews:
        """Hide patches of views x (n, 3, S, S): the same number in each, at places drawn for its image and epoch."""
        hidden, patches = self.count(x.shape[-1])
        side = math.isqrt(patches)
        drawn = uniforms(patches, seed=seed, stream=Stream.PRETEXT, epoch=epochs, index=index)
        rank = drawn.argsort(1).argsort(1)
        shown = torch.from_numpy(rank >= hidden).view(-1, 1, side, side)
        grid = shown.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return x * grid[..., : x.shape[2], : x.shape[3]]


@dataclass(frozen=True)
class ImagePairs:
    """Views of images as `views` makes them, but that the key is of another image, or the query is partly hidden."""

    look: Look
    partner: Partner | None = None
    keys: Images | None = None
    """The images of the keys; by default the queries' own."""
    hidden: Hidden | None = None
    key_look: Look | None = None
    """What the keys' views have in common; by default what those of the queries have."""

    def __call__(self, chosen: ChosenImages, streams: Sequence[Stream]) -> list[Tensor]:
        """Make x_q and x_k of every row, as far as `streams` ask for them."""
        if self.partner is None:
            views = make_views(chosen, streams, self.look)
        else:
            views = [self._make_side(chosen, stream, self.partner) for stream in streams]
        if self.hidden is not None and Stream.VIEW_QUERY in streams:
            place = list(streams).index(Stream.VIEW_QUERY)
            views[place] = self.hidden.hide(views[place], chosen.index, chosen.epochs, chosen.seed)
        return views

    def _make_side(self, chosen: ChosenImages, stream: Stream, partner: Partner) -> Tensor:
        if stream == Stream.VIEW_QUERY:
            return make_views(chosen, (stream,), self.look)[0]
        index = partner(chosen.index, chosen.epochs, chosen.seed)
        instead = chosen.index if self.keys is None else None
        others = ChosenImages(
            self.keys or chosen.images,
            index,
            chosen.epochs,
            chosen.seed,
            instead=instead,
            stand_ins=instead is not None,
        )
        view = make_views(others, (stream,), self.key_look or self.look)[0]
        chosen.absorb(others)
        return view


def match_names(images: Images, others: Images, where: str) -> Integers:
    """Find for each image the one of `others` with the same name but for its ending: (n,).

    Raises BadInputError naming the first that has none, or several.
    """
    rows: dict[str, int] = {}
    for row in range(len(others)):
        stem = os.path.splitext(others.name(row))[0]
        if stem in rows:
            raise BadInputError(
                f"--partner {where}: {one_line(others.name(rows[stem]))} and {one_line(others.name(row))} have "
                f"one name: expected one file for each image"
            )
        rows[stem] = row
    stems = [os.path.splitext(images.name(row))[0] for row in range(len(images))]
    missing = [row for row, stem in enumerate(stems) if stem not in rows]
    if missing:
        raise BadInputError(
            f"--partner {where}: no file for {one_line(images.name(missing[0]))} (and {len(missing) - 1} others): "
            f"expected one of the same name for each image of --data"
        )
    return np.array([rows[stem] for stem in stems], np.int64)
