"""Which encoder suits the images as it is: kNN by neighbours of several encoders, on the same images."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.data.images import Images
from moco.data.kept import prepare_one
from moco.evaluation.features import Encoding, encode, prepare_image
from moco.evaluation.judge import NEIGHBOURS, classify_by_neighbours
from moco.evaluation.pixels import SIDE, RawPixels
from moco.evaluation.session import labels_of
from moco.interop.checkpoints import Weights
from moco.runtime.fields import Precision
from moco.shapes import Bank, Features

TEMPERATURE = 0.1
"""Weight of a vote: exp(similarity / this), the default of every command."""


def measure_encoding(weights: Weights, images: Images, size: int, precision: Precision) -> float:
    """Measure how many seconds it takes to read, prepare and encode one image, on these few."""
    encode(weights.encoder, images, _encoding(weights, size, precision))  # the first call allocates and chooses kernels
    begun = time.monotonic()
    encode(weights.encoder, images, _encoding(weights, size, precision))
    return (time.monotonic() - begun) / len(images)


def judge_weights(weights: Weights, size: int, bank: Images, queries: Images, precision: Precision) -> Tensor:
    """Say which images of bank and queries their neighbours in the bank classify rightly, (B + N,) bool."""
    how = _encoding(weights, size, precision)
    found = [encode(weights.encoder, images, how) for images in (bank, queries)]
    return _judge(found[0], found[1], bank, queries, str(next(weights.encoder.parameters()).device))


def judge_pixels(bank: Images, queries: Images) -> Tensor:
    """Say the same of raw pixels, 16 x 16 and centred."""
    found = []
    for images in (bank, queries):
        squares = torch.stack([prepare_one(images, row, SIDE, prepare_image) for row in range(len(images))])
        found.append(F.normalize(RawPixels()(squares)))
    return _judge(found[0], found[1], bank, queries, "cpu")


def _judge(known: Bank, asked: Features, bank: Images, queries: Images, device: str) -> Tensor:
    return classify_by_neighbours(
        known, labels_of(bank), asked, labels_of(queries), k=NEIGHBOURS, temperature=TEMPERATURE,
        classes=len(bank.classes), device=device,
    )  # fmt: skip


def _encoding(weights: Weights, size: int, precision: Precision) -> Encoding:
    return Encoding(size, weights.mean, weights.std, batch_size=64, precision=precision)
