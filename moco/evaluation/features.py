"""A frozen encoder and images -> features."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.encoder import Encoder, Output
from moco.core.folding import folded_copy
from moco.core.maps import Grids, count_numbers
from moco.core.sizes import use_evaluation_mode
from moco.data.ahead import load_ahead
from moco.data.augment import Augmentation, normalize
from moco.data.images import Images
from moco.data.kept import prepare_one
from moco.data.replacement import ChosenImages
from moco.data.spans import cut_whole, read_document
from moco.data.unreadable import leave_out_unreadable
from moco.data.views import Look, make_views
from moco.errors import BadInputError
from moco.evaluation.feeding import DrawnCrops, PreparedBytes, feed_drawn, feed_prepared
from moco.evaluation.preparation import prepare_image, prepare_whole
from moco.runtime.allocation import keep_freed_memory
from moco.runtime.device import autocast
from moco.runtime.distributed import gather, rank, world_size
from moco.runtime.fields import Precision
from moco.runtime.progress import show_progress
from moco.runtime.randomness import Stream
from moco.runtime.sharedmemory import require_shared_memory
from moco.runtime.transfers import Fetcher
from moco.shapes import Features

PLACES = 1 << 20
"""Pixels, or bytes of documents, that a CPU encodes at a time: larger batches are no faster, and take more memory."""
ROWS_AT_A_TIME = 8192
"""Rows that the ranks exchange at a time, which bounds the memory."""


@dataclass(frozen=True)
class Encoding:
    """How images are prepared for an encoder, and which output is used."""

    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    output: Output = "backbone"
    batch_size: int = 256
    precision: Precision = "fp32"
    unit: bool = True
    """Scale features to unit length (the head's always are)."""
    stored: Literal["fp32", "fp16"] = "fp32"
    workers: int = 0
    """Processes that load images (0: this one)."""
    text: bool = False
    """The encoder takes documents: each is cut into spans of `image_size` bytes, whose features are averaged."""
    rgb: bool = True
    """Images are bytes of RGB, not channels at full depth."""
    whole: bool = False
    """Resize the whole of each image, whatever its shape: raw pixels."""
    feed: bool | None = None
    """Hand images over as bytes and normalise them where the encoder is; by default where that is not the CPU."""

    @property
    def prepare(self) -> Callable[[Tensor, int], Tensor]:
        """Return what makes the square of an image at a size, or those of a batch of images."""
        return prepare_whole if self.whole else prepare_image

    def require_images(self, otherwise: str) -> None:
        """Raise BadInputError, with what to do `otherwise`, where the encoder takes documents: these have no crops."""
        if self.text:
            raise BadInputError(f"random crops are of images, and these are documents: {otherwise}")


@dataclass(frozen=True)
class RandomViews:
    """Which random view of each image is encoded: a pure function of (seed, number, image)."""

    augmentation: Augmentation
    seed: int
    number: int


@dataclass(frozen=True)
class Earlier:
    """Features of the first images that an interrupted call left, and what keeps the next ones in its place."""

    features: Sequence[Features]
    """(n, C) each, of whole batches."""
    keep: Callable[[Features], None]
    """Gets the next (n, C), of whole batches and at least `at_a_time` rows."""
    at_a_time: int


def encode(
    encoder: Encoder,
    images: Images,
    how: Encoding,
    views: RandomViews | None = None,
    title: str | None = None,
    earlier: Earlier | None = None,
) -> Features:
    """Encode all images: features on the CPU, in fp32 and of unit length unless `how` says otherwise.

    What is encoded of an image is its whole or its centre (`prepare_image`), or with `views` a random view. The encoder
    is left in the mode it was in. Several ranks divide the images, and each gets all the features. With a title, a
    bar shows progress. With `earlier` one process continues after the features that it holds.
    """
    device = next(encoder.parameters()).device
    return outputs(encoder.reading(how.output), encoder.width(how.output), images, how, views, title, device, earlier)


def encode_grids(
    encoder: Encoder, images: Images, how: Encoding, grids: Sequence[int], title: str | None = None
) -> Features:
    """Encode all images to averages over the cells of these grids, as `Grids` gives them, not whitened."""
    device, width = next(encoder.parameters()).device, count_numbers(encoder.num_features, grids)
    return outputs(Grids(encoder.backbone, grids), width, images, how, title=title, device=device)


def encode_readable(encoder: Encoder, images: Images, how: Encoding) -> tuple[Images, Features]:
    """Encode as `encode` does, and leave out images that cannot be read: those that were encoded, and their features.

    Which these are is looked up only where there are some, which takes as long as decoding all.
    """
    try:
        return images, encode(encoder, images, how)
    except BadInputError:
        readable = leave_out_unreadable(images)
        if len(readable) in (0, len(images)):
            raise
        return readable, encode(encoder, readable, how)


@torch.no_grad()
def outputs(
    module: nn.Module,
    width: int,
    images: Images,
    how: Encoding,
    views: RandomViews | None = None,
    title: str | Iterator[int] | None = None,
    device: torch.device | None = None,
    earlier: Earlier | None = None,
) -> Features:
    """Encode as `encode` does, by any module that gives `width` numbers per image, on its own `device`.

    An iterator as title shows the progress of a larger work: a value of it is taken after every batch.
    """
    _require_channels(images, how)
    device = device or next(module.parameters()).device
    at_a_time = how.batch_size
    if device.type == "cpu":
        keep_freed_memory()
        at_a_time = max(1, PLACES // how.image_size**2)
    own = math.ceil(len(images) / world_size())  # images of this rank, the last ranks perhaps fewer
    first, last = (min(place * own, len(images)) for place in (rank(), rank() + 1))
    kind = torch.float16 if how.stored == "fp16" else torch.float32
    block = torch.zeros(own, width, dtype=kind)
    done = kept = _restore(block, earlier)
    starts = range(first + done, last, how.batch_size)
    fetcher = Fetcher(device.type)
    with use_evaluation_mode(module):
        blank = torch.zeros(1, len(how.mean), how.image_size, how.image_size, device=device)
        network = folded_copy(module, blank)
        batches = zip(starts, _batches(images, how, views, first + done, last, device.type), strict=True)
        shown = show_progress(batches, None if isinstance(title, Iterator) else title, len(starts))
        for start, batch in shown:
            with autocast(how.precision, device.type):
                features = torch.cat([network(part).float() for part in torch.split(batch.to(device), at_a_time)])
            end = start - first + len(batch)
            fetcher.fetch(F.normalize(features) if how.unit else features, block[start - first : end])
            if earlier is not None and end - kept >= earlier.at_a_time:
                fetcher.finish()
                earlier.keep(block[kept:end])
                kept = end
            if isinstance(title, Iterator):
                next(title)
    fetcher.finish()
    if world_size() == 1:
        return _finite(block[: len(images)], images)
    whole = torch.empty(world_size(), own, width, dtype=kind)
    for start in range(0, own, ROWS_AT_A_TIME):
        part = block[start : start + ROWS_AT_A_TIME]
        whole[:, start : start + len(part)] = gather(part.to(device)).cpu().view(world_size(), len(part), width)
    return _finite(whole.view(-1, width)[: len(images)], images)


def _restore(block: Features, earlier: Earlier | None) -> int:
    """Write earlier features into the first rows of a block (N, C), and count them."""
    done = 0
    for part in () if earlier is None else earlier.features:
        block[done : done + len(part)] = part
        done += len(part)
    return done


def _require_channels(images: Images, how: Encoding) -> None:
    """Raise BadInputError where the images have other channels than the encoder takes."""
    form = images.form
    if how.rgb != (form is None) or (form is not None and len(how.mean) != form.channels):
        takes = "bytes of RGB" if how.rgb else f"images of {len(how.mean)} channels"
        kind = "bytes of RGB" if form is None else form.kind
        raise BadInputError(
            f"the encoder takes {takes}, but the images are {kind}: give weights that were trained on these"
        )


def _finite(features: Features, images: Images) -> Features:
    """The features. Raises BadInputError, on every process, where some are not finite, naming the first image."""
    bad = (~features.isfinite()).any(1).nonzero()
    if len(bad):
        raise BadInputError(
            f"the encoder's features of {len(bad)} of {len(images)} images are not finite (the first: "
            f"{images.name(int(bad[0]))}), as after a diverged training: give other weights"
        )
    return features


def _batches(
    images: Images, how: Encoding, views: RandomViews | None, first: int, last: int, device: str
) -> Iterator[Tensor]:
    """The images first..last-1 in order, normalised, `how.batch_size` at a time."""
    ranges = [range(start, min(start + how.batch_size, last)) for start in range(first, last, how.batch_size)]
    if views is not None:
        how.require_images("give --views 0")
    fed = (device != "cpu" if how.feed is None else how.feed) and images.form is None and not how.text
    require_shared_memory(
        how.batch_size * len(how.mean) * how.image_size**2 * (1 if fed else 4), how.workers, len(ranges)
    )
    if fed:
        if views is not None:
            crops = DrawnCrops(images, _look(views, how), views.number, views.seed)
            return feed_drawn(crops, ranges, how.workers, device)
        prepared = PreparedBytes(images, how.image_size, how.prepare)
        return feed_prepared(prepared, ranges, (how.mean, how.std), how.workers, device)
    return load_ahead(_Prepared(images, how, views), ranges, how.workers)


@dataclass(frozen=True)
class _Prepared:
    """Rows of a set -> normalised views of these images."""

    images: Images
    how: Encoding
    views: RandomViews | None

    def __call__(self, rows: range) -> Tensor:
        return self._centred(rows) if self.views is None else self._random(rows, self.views)

    def _centred(self, rows: range) -> Tensor:
        if self.how.text:
            return torch.stack([cut_whole(read_document(self.images, row), self.how.image_size) for row in rows])
        return normalize(torch.cat(list(self._prepare(rows))), self.how.mean, self.how.std)

    def _prepare(self, rows: range) -> Iterator[Tensor]:
        """Prepare images (n, channels, size, size): together as many as are stacked at no cost, else one by one."""
        images, size, prepare = self.images, self.how.image_size, self.how.prepare
        if not images.in_memory or images.unreadable:
            yield torch.stack([prepare_one(images, row, size, prepare) for row in rows])
            return
        together = max(1, PLACES // images[rows.start][0].numel())
        for part in np.split(np.arange(rows.start, rows.stop), range(together, len(rows), together)):
            stacked = images.stack(part)
            assert stacked is not None
            yield prepare(stacked, size)

    def _random(self, rows: range, views: RandomViews) -> Tensor:
        index = np.arange(rows.start, rows.stop)
        chosen = ChosenImages(self.images, index, views.number, views.seed, stand_ins=False)
        return make_views(chosen, (Stream.VIEW_QUERY,), _look(views, self.how))[0]


def _look(views: RandomViews, how: Encoding) -> Look:
    return Look(views.augmentation, how.image_size, how.mean, how.std, scaled=True)
