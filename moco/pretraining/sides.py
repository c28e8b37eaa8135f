"""The trained encoders, and the dictionary of each side of the pairs; mostly one encoder for both."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from moco.core.encoder import Encoder
from moco.core.pair import EncoderPair, Side, Sides, Teacher
from moco.core.resnet import ResNet
from moco.core.sizes import use_evaluation_mode
from moco.core.whitening import views_to_whiten, whiten, whiten_head
from moco.data.images import Images
from moco.data.loader import ViewBatches
from moco.data.pairs import PairBatches
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import count_head_steps
from moco.pretraining.initial import has_whitened_head
from moco.pretraining.prepare import build_batches, build_dictionary, build_encoder
from moco.pretraining.pretexts import open_partner
from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.runtime.fields import require
from moco.runtime.owncode import OwnCode
from moco.runtime.randomness import Stream, permute


def list_sides(config: PretrainConfig, images: Images) -> list[tuple[PretrainConfig, Images]]:
    """List how each encoder of a run is set, and its images: that of `--data`, and one of `--partner`'s own."""
    sides = [(config, images)]
    if config.partner_encoder == "own":
        keys, partner = open_partner(config, images)
        sides.append((partner, keys))
    return sides


def build_sides(
    config: PretrainConfig, images: Images, teacher: Teacher | None = None, own: OwnCode | None = None
) -> list[Side]:
    """Build the encoders of a run and their dictionaries, on its device."""
    sides = []
    streams = (Stream.VIEW_QUERY, Stream.VIEW_KEY)
    for (settings, _), stream in zip(list_sides(config, images), streams, strict=False):
        f_q = build_encoder(settings)
        if config.init == "whitened" and config.init_weights is None:
            whiten_first_layer(f_q, build_batches(config, images, own), stream)
        f_q = f_q.to(config.device).to(memory_format=torch.channels_last)
        asked = has_whitened_head(settings, f_q)
        whitened = asked and whiten_new_head(f_q, build_batches(config, images, own), stream, config)
        alone = count_head_steps(config)
        pair = EncoderPair(f_q, config.dictionary, seed=config.seed, teacher=teacher, head_steps=alone)
        sides.append(Side(pair, build_dictionary(config, len(images), teacher).to(config.device), whitened))
    return sides


def name_modules(sides: Sides) -> dict[str, nn.Module]:
    """Name what is trained, as checkpoints do: f_q, dictionary and f_k; g_q, g_dictionary and g_k of a second side."""
    names = (("f_q", "dictionary", "f_k"), ("g_q", "g_dictionary", "g_k"))
    modules = [(side.pair.encoder, side.dictionary, side.pair.f_k) for side in sides]
    named = (pair for own in zip(names, modules, strict=False) for pair in zip(*own, strict=True))
    return {name: module for name, module in named if module is not None}


def trained_parameters(sides: Sides) -> Iterator[nn.Parameter]:
    """Yield what the optimiser moves: the parameters of every encoder that is trained by gradient."""
    for side in sides:
        yield from side.pair.encoder.parameters()


def update(sides: Sides, m: float) -> None:
    """Let each momentum encoder follow its encoder: theta_k <- m theta_k + (1 - m) theta_q (v1, Eq. 2)."""
    for side in sides:
        side.pair.update(m)


def whiten_first_layer(
    encoder: Encoder, batches: ViewBatches | PairBatches, stream: Stream = Stream.VIEW_QUERY
) -> None:
    """Let the first convolution of a ResNet whiten the patches of the views of the first images (--init whitened).

    They are the views of `stream`. Every rank takes the same images.
    """
    if isinstance(encoder.backbone, ResNet):
        count = min(views_to_whiten(encoder.backbone.conv1, batches.view_size), len(batches.images))
        first = permute(range(count), len(batches.images), seed=batches.seed, stream=Stream.ORDER, epoch=0)
        (views,) = batches.make_views(first, 0, [stream])
        whiten(encoder.backbone.conv1, views)


def whiten_new_head(
    encoder: Encoder, batches: ViewBatches | PairBatches, stream: Stream, config: PretrainConfig
) -> bool:
    """Let a new head read whitened features, by views of `stream` of as many images as features have numbers.

    Returns whether it does. Features depend on the processor in low precision, so every rank takes the head of the
    first. Views are always in fp32.
    """
    count = min(encoder.num_features, len(batches.images))
    chosen = permute(range(count), len(batches.images), seed=batches.seed, stream=Stream.ORDER, epoch=0)
    features = []
    with torch.no_grad(), use_evaluation_mode(encoder):
        for some in np.split(chosen, range(config.batch_size, count, config.batch_size)):
            (views,) = batches.make_views(some, 0, [stream])
            with autocast(require(config.precision), config.device):
                features.append(encoder.backbone(views.to(config.device)).float())
    whitened = whiten_head(encoder.head, torch.cat(features))
    own = {name: value.cpu() for name, value in encoder.head.state_dict().items()}
    encoder.head.load_state_dict(distributed.from_first(lambda: own))
    return whitened
