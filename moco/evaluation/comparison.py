"""Which encoder suits the images as it is: kNN by neighbours of several encoders, on the same images."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.images import Images
from moco.evaluation.again import encode_networks
from moco.evaluation.features import Encoding, encode
from moco.evaluation.folds import Vote, classify_by_folds
from moco.evaluation.joining import Judge, choose
from moco.evaluation.pixels import SIDE, build_raw_pixels
from moco.evaluation.session import labels_of
from moco.interop.checkpoints import Weights
from moco.runtime.fields import Precision, require
from moco.shapes import Bank, Features

TEMPERATURE = 0.1
"""Weight of a vote: exp(similarity / this), the default of every command."""
JOINED_BY = 1024
"""Images of the bank, at most, that say whether joining two encoders pays: it takes seconds for so many."""
Encoded = tuple[Bank, Features]
"""Features of bank and queries over one or more grids, (B, C) and (N, C), not whitened."""


def measure_encoding(weights: Weights, images: Images, size: int, precision: Precision) -> float:
    """Measure how many seconds it takes to read, prepare and encode one image, on these few."""
    encode(weights.encoder, images, _encoding(weights, size, precision))  # the first call allocates and chooses kernels
    begun = time.monotonic()
    encode(weights.encoder, images, _encoding(weights, size, precision))
    return (time.monotonic() - begun) / len(images)


def judge_weights(weights: Weights, size: int, bank: Images, queries: Images, precision: Precision) -> Tensor:
    """Say which images of bank and queries their neighbours in the bank classify rightly, (B + N,) bool."""
    grids = weights.encoder.grids(size)
    encoded = encode_both(weights, size, bank, queries, precision, grids)
    return vote_by_features(encoded, bank, queries, _device(weights.encoder), grids)


def judge_pixels(bank: Images, queries: Images) -> Tensor:
    """Say the same of raw pixels, 16 x 16 and centred."""
    encoder, how = _build_pixels(bank)
    known, asked = (encode(encoder, images, how) for images in (bank, queries))
    return vote_by_features((known, asked), bank, queries, _device(encoder))


def _build_pixels(images: Images) -> tuple[Encoder, Encoding]:
    """Make raw pixels of these images an encoder."""
    form = images.form
    mean, std = ((0.0,) * 3, (1.0,) * 3) if form is None else (form.mean, form.std)
    encoder, how = build_raw_pixels(Encoding(SIDE, mean, std, rgb=form is None), "cpu")
    return encoder, replace(how, unit=False)


def measure_pixels(images: Images) -> float:
    """Measure how many seconds it takes to read one of these few images and to shrink it to raw pixels."""
    encoder, how = _build_pixels(images)
    begun = time.monotonic()
    encode(encoder, images, how)
    return (time.monotonic() - begun) / len(images)


def encode_both(
    weights: Weights, size: int, bank: Images, queries: Images, precision: Precision, grids: Sequence[int]
) -> Encoded:
    """Encode bank and queries at this size, over these grids, or read what an earlier evaluation kept."""
    how = replace(_encoding(weights, size, precision), unit=False)
    known, asked = (
        torch.cat(encode_networks(weights.encoder, images, how, grids=grids), 1) for images in (bank, queries)
    )
    return known, asked


def vote_by_features(
    encoded: Encoded, bank: Images, queries: Images, device: str, grids: Sequence[int] = (1,)
) -> Tensor:
    """Say which images neighbours classify rightly, (B + N,) bool; see `classify_by_folds`."""
    known, asked = encoded
    vote = Vote(labels_of(bank), len(bank.classes), TEMPERATURE, device)
    return classify_by_folds(known, asked, labels_of(queries), vote, grids)


def thin(features: Bank) -> Features:
    """Keep the features of as many images as say whether joining pays, evenly spread over the bank."""
    return features[:: _step(len(features))].clone()


def measure_joining(
    known: Tensor, other: Tensor, bank: Images, grids: tuple[Sequence[int], Sequence[int]] = ((1,), (1,))
) -> float:
    """Measure by how many points an encoder joined with another classifies the bank better than `known` does alone.

    Both give features (n, C_i) of some of its images (`thin`), each over its own grids. Each image is classified by
    the others (leave-one-out), as `moco join` does it.
    """
    judge = Judge(labels_of(bank)[:: _step(len(bank))], len(bank.classes), TEMPERATURE)
    choice, alone = choose([known, other], judge, grids)
    return require(choice.top1) - alone[0]


def _step(images: int) -> int:
    return math.ceil(images / JOINED_BY)


def _device(encoder: Encoder) -> str:
    return str(next(encoder.parameters()).device)


def _encoding(weights: Weights, size: int, precision: Precision) -> Encoding:
    return Encoding(size, weights.mean, weights.std, batch_size=64, precision=precision, rgb=weights.form is None)
