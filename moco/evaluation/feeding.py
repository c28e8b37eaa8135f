"""Images for an encoder on a GPU: workers hand over bytes, which are copied one batch ahead and normalised there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.data.ahead import load_ahead
from moco.data.crops import Crops, make_crops
from moco.data.feed import Feed
from moco.data.images import Images
from moco.data.kept import find_kept
from moco.data.replacement import ChosenImages
from moco.data.views import Look
from moco.runtime.randomness import Stream
from moco.runtime.transfers import Sender, start_ahead
from moco.shapes import Bytes, Image, Square, Views


@dataclass(frozen=True)
class PreparedBytes:
    """Rows of a set -> what `prepare` makes of these images, rounded to bytes."""

    images: Images
    size: int
    prepare: Any
    """A function of an image and a size."""

    def __call__(self, rows: range) -> Bytes:
        """Prepare the images of these rows."""
        return torch.stack([self._round(self.prepare(self.images[row], self.size)) for row in rows])

    @staticmethod
    def _round(square: Square) -> Image:
        return (square * 255).round_().to(torch.uint8)


@dataclass(frozen=True)
class DrawnCrops:
    """Rows of a set -> the crops of one random view of each."""

    images: Images
    look: Look
    number: int
    seed: int

    def __call__(self, rows: range) -> Crops:
        """Crop the images of these rows."""
        index = np.arange(rows.start, rows.stop)
        chosen = ChosenImages(self.images, index, self.number, self.seed, stand_ins=False)
        return make_crops(chosen, (Stream.VIEW_QUERY,), self.look)


def feed_prepared(
    make: PreparedBytes, ranges: Sequence[range], moments: tuple[Sequence[float], Sequence[float]], workers: int,
    device: str,
) -> Iterator[Views]:  # fmt: skip
    """Yield the normalised images of each range, on the device; a set that keeps what was prepared keeps it there."""
    sender, images = Sender(device), make.images
    kept = find_kept(images)
    known = {} if kept is None else {rows: kept.on_device(rows, make.size, make.prepare, device) for rows in ranges}
    missing = [rows for rows in ranges if known.get(rows) is None]
    mean, std = (torch.tensor(list(values)).view(3, 1, 1).to(device) for values in moments)
    loaded = _load(make, missing, workers, sender)
    for rows in ranges:
        batch = known.get(rows)
        if batch is None:
            batch = next(loaded)
            if kept is not None:
                kept.keep_on_device(rows, make.size, make.prepare, device, batch)
        yield ((batch.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _load(make: PreparedBytes, missing: Sequence[range], workers: int, sender: Sender) -> Iterator[Tensor]:
    if missing:  # else no process is started
        loaded = load_ahead(make, missing, workers, pinned=sender.stream is not None)
        for sent in start_ahead(loaded, sender.send):
            (batch,) = sender.receive(sent)
            assert batch is not None
            yield batch


def feed_drawn(make: DrawnCrops, ranges: Sequence[range], workers: int, device: str) -> Iterator[Views]:
    """Yield the views of each range, finished on the device."""
    feed = Feed(make.images, make.look, device)
    loaded = load_ahead(make, ranges, workers, pinned=feed.sender.stream is not None)
    return (views[0] for views, _, _ in feed.run(loaded))
