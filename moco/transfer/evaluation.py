"""A model on the test images: predictions, figures, pictures."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.runtime.progress import show_progress
from moco.transfer.batches import Batch, move_batch, pixels
from moco.transfer.config import TransferConfig
from moco.transfer.examples import Examples
from moco.transfer.pictures import draw_prediction
from moco.transfer.scores import Scorer

COCO_COUNTS = 100
"""Detections of an image that COCO's rule counts."""


@torch.no_grad()
def evaluate_model(model: nn.Module, examples: Examples, config: TransferConfig) -> dict[str, float]:
    """Return the figures of the benchmark, in percent; several processes share the images, each of which goes alone."""
    model.eval()
    counted = config.detections if config.detections > COCO_COUNTS else None
    scorer = Scorer(examples, config.voc_rule, counted)
    own = choose_tested(examples, config.test_images)[distributed.rank() :: distributed.world_size()]
    for index in show_progress(own, "testing", len(own)):
        scorer.add(index, predict(model, examples[index][0], config))
    scorer.merge(distributed.gather_values(scorer.state()))
    return distributed.from_first(scorer.result)


def predict(model: nn.Module, image: Tensor, config: TransferConfig) -> Any:
    """Return what a model in evaluation says of one image (3, H, W) of bytes."""
    with autocast(config.precision, config.device):
        return model([pixels(image, config.device)])[0]


def choose_tested(examples: Examples, most: int | None) -> list[int]:
    """Choose the images that are looked at: all, or so many of them, evenly chosen."""
    count = min(most or len(examples), len(examples))
    return [i * len(examples) // count for i in range(count)]


@torch.no_grad()
def draw_predictions(model: nn.Module, examples: Examples, config: TransferConfig) -> list[dict[str, Any]]:
    """Return some test images with what is true and what was found, for the report; on the first process."""
    model.eval()
    chosen = choose_tested(examples, min(config.shown_images, len(examples))) if config.shown_images else []
    return [draw_prediction(examples, index, predict(model, examples[index][0], config)) for index in chosen]


@contextmanager
def use_precise_statistics(model: nn.Module, batches: Iterable[Batch], config: TransferConfig) -> Iterator[None]:
    """Replace BN's statistics by plain means over some training batches inside the block, then restore them.

    Running statistics lag behind weights that move. Afterwards they are as before: to evaluate changes nothing.
    A layer that saw no batch (a mask head without an object) keeps its own.
    """
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [({key: value.clone() for key, value in norm.named_buffers()}, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = None  # torch's word for a cumulative mean
        for number, batch in enumerate(batches):
            for norm in norms if number == 0 else ():
                norm.reset_running_stats()
            images, targets = move_batch(batch, config.device)
            with torch.no_grad(), autocast(config.precision, config.device):
                model(images, targets)
        for norm, (buffers, _) in zip(norms, before, strict=True):
            if not int(norm.get_buffer("num_batches_tracked")):
                _put_back(norm, buffers)
        yield
    finally:
        for norm, (buffers, momentum) in zip(norms, before, strict=True):
            norm.momentum = momentum
            _put_back(norm, buffers)


def _put_back(norm: nn.Module, buffers: dict[str, Tensor]) -> None:
    for key, value in buffers.items():
        norm.get_buffer(key).copy_(value)
