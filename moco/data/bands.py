"""Changes of colour for images of any channels: what brightness, contrast, saturation, hue and grey are for RGB.

Each channel gets a brightness, a contrast and noise of its own, in units of its standard deviation over the set; values
are not cut off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from moco.runtime.randomness import IntegersLike, Reals, Stream, seed_of, uniforms
from moco.shapes import Rendered

FIRST = 64
"""The numbers of a view from here on are for its channels."""
NOISE = 0.1
"""Largest standard deviation of the noise, as a share of the channel's own."""


class BandParameters(NamedTuple):
    """What was drawn for the channels of n views."""

    shift: npt.NDArray[np.float32]
    """(n, C), in the units of the channel."""
    factor: npt.NDArray[np.float32]
    """(n, C): distances from the channel's mean in the view are multiplied by this."""
    noise: npt.NDArray[np.float32]
    """(n, C): standard deviation of the noise, in the units of the channel."""
    seeds: tuple[int, ...]
    """(n,): of the generators of the noise."""


def draw_bands(
    deviations: Sequence[float], strengths: tuple[float, float], changed: npt.NDArray[np.bool_], *, seed: int,
    epoch: IntegersLike, index: IntegersLike, view: Stream,
) -> BandParameters:  # fmt: skip
    """Draw brightness, contrast and noise of each channel of the views that are `changed` (n,).

    `strengths` are those of brightness and contrast: a shift is up to so many standard deviations, a factor up to so
    much from 1.
    """
    channels = len(deviations)
    count = 2 * channels + 1
    u: Reals = uniforms(FIRST + count, seed=seed, stream=view, epoch=epoch, index=index)[:, FIRST:]
    scale, on = np.array(deviations), changed[:, None]
    brightness, contrast = (
        np.where(on, strength * (2 * part - 1), 0)
        for strength, part in zip(strengths, (u[:, :channels], u[:, channels : 2 * channels]), strict=True)
    )
    noise = np.where(on & (max(strengths) > 0), NOISE * u[:, -1:], 0)
    epochs, rows = np.broadcast_arrays(np.atleast_1d(epoch), np.atleast_1d(index))
    seeds = tuple(
        seed_of(seed=seed, stream=view, epoch=int(own), index=int(row)) for own, row in zip(epochs, rows, strict=True)
    )
    return BandParameters(
        (brightness * scale).astype(np.float32), (1 + contrast).astype(np.float32), (noise * scale).astype(np.float32),
        seeds,
    )  # fmt: skip


def adjust_bands(pixels: Rendered, drawn: BandParameters) -> Rendered:
    """Change brightness and contrast of each channel: mean + factor (x - mean) + shift."""
    factor, shift = (torch.from_numpy(values)[:, :, None, None] for values in (drawn.factor, drawn.shift))
    mean = pixels.mean((2, 3), keepdim=True)
    return torch.addcmul(mean + shift, pixels - mean, factor)


def add_noise(pixels: Rendered, drawn: BandParameters) -> None:
    """Add Gaussian noise to each view, in place, by a generator of its own."""
    for row, (seed, noise) in enumerate(zip(drawn.seeds, drawn.noise, strict=True)):
        if noise.any():
            generator = torch.Generator().manual_seed(seed)
            values = torch.randn(pixels.shape[1:], generator=generator)
            pixels[row].addcmul_(values, torch.from_numpy(noise)[:, None, None])
