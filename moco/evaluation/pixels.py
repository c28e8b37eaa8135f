"""Raw pixels as features: the accuracy that colours alone give, which an encoder must beat."""

import dataclasses

import torch
from torch import nn

from moco.core.encoder import Encoder, EncoderPlan
from moco.evaluation.features import Encoding
from moco.shapes import Features, Views

SIDE = 16
"""Side in pixels that the whole picture is resized to."""


class RawPixels(nn.Module):
    """Pixels (N, C, H, W), RGB in [0, 1] -> (N, CHW), less the mean of each picture: brightness does not count."""

    def forward(self, x: Views) -> Features:
        """Centre the pixels of each picture."""
        flat = x.flatten(1)
        return flat - flat.mean(1, keepdim=True)


def build_raw_pixels(how: Encoding, device: torch.device | str) -> tuple[Encoder, Encoding]:
    """Make an encoder that has raw pixels for features, and say how images are brought to it: whole, not normalised.

    Channels of other images than bytes of RGB are normalised, for they have units of their own. `how` gives what else
    there is to say, such as the batch.
    """
    channels = len(how.mean)
    encoder = Encoder(EncoderPlan("raw pixels", image_size=SIDE), (RawPixels(), channels * SIDE * SIDE)).to(device)
    how = dataclasses.replace(how, image_size=SIDE, whole=True, output="backbone")
    return encoder, how if not how.rgb else dataclasses.replace(how, mean=(0.0,) * 3, std=(1.0,) * 3)
