"""Which encoder suits the images as it is: kNN by neighbours of several encoders, on the same images."""

import time
from dataclasses import replace

from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.images import Images
from moco.evaluation.features import Encoding, encode
from moco.evaluation.judge import classify_whitened
from moco.evaluation.pixels import SIDE, build_raw_pixels
from moco.evaluation.session import labels_of
from moco.interop.checkpoints import Weights
from moco.runtime.fields import Precision

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
    return _judge(weights.encoder, _encoding(weights, size, precision), bank, queries)


def judge_pixels(bank: Images, queries: Images) -> Tensor:
    """Say the same of raw pixels, 16 x 16 and centred."""
    form = bank.form
    mean, std = ((0.0,) * 3, (1.0,) * 3) if form is None else (form.mean, form.std)
    encoder, how = build_raw_pixels(Encoding(SIDE, mean, std, rgb=form is None), "cpu")
    return _judge(encoder, how, bank, queries)


def _judge(encoder: Encoder, how: Encoding, bank: Images, queries: Images) -> Tensor:
    known, asked = (encode(encoder, images, replace(how, unit=False)) for images in (bank, queries))
    device = str(next(encoder.parameters()).device)
    return classify_whitened(
        known, labels_of(bank), asked, labels_of(queries), temperature=TEMPERATURE, classes=len(bank.classes),
        device=device,
    )  # fmt: skip


def _encoding(weights: Weights, size: int, precision: Precision) -> Encoding:
    return Encoding(size, weights.mean, weights.std, batch_size=64, precision=precision, rgb=weights.form is None)
