"""The batch of every step: which images, how they are resized, cropped and mirrored; a function of (seed, step)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from moco.data.ahead import load_ahead
from moco.runtime.randomness import Stream, seed_of
from moco.transfer.config import TransferConfig
from moco.transfer.examples import Examples
from moco.transfer.sampling import Passes, build_passes
from moco.transfer.targets import for_training
from moco.transfer.views import detection_view, semantic_view

Batch = tuple[list[Tensor], list[Any]]
"""Images (3, h, w) of bytes, and for each its objects or its label map (h, w)."""
TRAINED_ON = ("boxes", "labels", "masks", "keypoints")


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of this rank: the r-th contiguous block of each. Every pass over the images has its own order."""

    examples: Examples
    config: TransferConfig
    rank: int = 0
    ranks: int = 1

    @cached_property
    def passes(self) -> Passes:
        """Return how many passes over the images the run makes."""
        config = self.config
        return build_passes(self.examples.annotations, config.repeat_threshold, config.skip_empty, config.seed)

    def at(self, step: int) -> Batch:
        """Return the batch of `step`."""
        share = self.config.batch_size // self.ranks
        first = step * self.config.batch_size + self.rank * share
        views = [self._view(place) for place in range(first, first + share)]
        return [image for image, _ in views], [target for _, target in views]

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of steps start..stop-1 in order, made ahead by `workers` processes (0: in this one)."""
        return load_ahead(self.at, range(start, stop), workers)

    def _view(self, place: int) -> tuple[Tensor, Any]:
        """The view of the image at a place in the run, counted over all passes."""
        config, chosen = self.config, self.passes.at(place)
        view = chosen.index + chosen.occurrence * len(self.examples)  # an image that comes again is seen otherwise
        drawn_from = seed_of(seed=config.seed, stream=Stream.TRANSFER_VIEW, epoch=chosen.epoch, index=view)
        generator = torch.Generator().manual_seed(drawn_from)
        image, target = self.examples[chosen.index]
        if isinstance(target, Tensor):
            return semantic_view(image, target, config.crop_size, generator, config.crop_scales, config.flip)
        image, objects = detection_view(
            image, for_training(target), config.train_sizes, config.longest_side, generator, self.examples.keypoints,
            config.flip,
        )  # fmt: skip
        objects = for_training(objects)  # what only touched the image has no width any more, now that it is cut
        return image, {name: objects[name] for name in TRAINED_ON if name in objects}


def move_batch(batch: Batch, device: str) -> Batch:
    """Return the batch on the device, its images in [0, 1]."""
    images, targets = batch
    return [pixels(image, device) for image in images], [
        target.to(device) if isinstance(target, Tensor) else {name: value.to(device) for name, value in target.items()}
        for target in targets
    ]


def pixels(image: Tensor, device: str) -> Tensor:
    """Convert bytes to numbers in [0, 1], on the device."""
    return image.to(device).float() / 255
