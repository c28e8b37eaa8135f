"""Crops on a device -> normalised views: whole-batch operations with each view's own parameters, and no host waits.

The operations are those of `augment`, in each view's drawn order: a blend that a view does not have at a place changes
nothing there. Compiled, they are a few kernels.
"""

import torch
from torch import Tensor

from moco.data.augment import Augmentation, adjust_hue, blur_kernel_size, blur_matrix, luminance
from moco.data.crops import FLIP, GREY, MEAN, OWN, SHARE, SHIFT, SIGMA, TURNS
from moco.shapes import AnyPixels, Drawn, PerColour, PerImage, PerImageFactor, Pixels, Rendered, SquareViews

NO_BLUR = 0.01
"""Standard deviation in pixels with a kernel of 1 in the middle and 0 elsewhere, in fp32."""


def finish_views(
    pixels: AnyPixels, drawn: Drawn, mean: PerColour, std: PerColour, augmentation: Augmentation, dtype: torch.dtype
) -> SquareViews:
    """Apply flip, quarter turns, colours, blur and normalisation to crops; the result is of `dtype`, colours innermost.

    Bytes are taken for values in [0, 1] times 255. Everything but the result is fp32.
    """
    columns: Drawn = drawn[:, :, None, None, None]
    pixels = torch.where(columns[:, FLIP] > 0, pixels.flip(-1), pixels)
    for quarters in (1, 2, 3) if augmentation.quarter_turns else ():
        pixels = torch.where(columns[:, TURNS] == quarters, pixels.rot90(quarters, (-2, -1)), pixels)
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    if augmentation.grey_first:
        pixels = grey_some(pixels, columns[:, GREY])
    if augmentation.jitter_probability:
        shares, owns, means = columns[:, SHARE].unbind(1), columns[:, OWN].unbind(1), columns[:, MEAN].unbind(1)
        for place, (share, own, of_mean) in enumerate(zip(shares, owns, means, strict=True)):
            if place == len(shares) // 2:
                pixels = adjust_hue(pixels, columns[:, SHIFT])
            pixels = blend_each(pixels, share, own, of_mean)
    if not augmentation.grey_first:
        pixels = grey_some(pixels, columns[:, GREY])
    if augmentation.blur_probability and blur_kernel_size(pixels.shape[-1]) > 1:
        pixels = blur_squares(pixels, drawn[:, SIGMA])
    return ((pixels - mean) / std).to(dtype, memory_format=torch.channels_last)


def blend_each(pixels: Pixels, share: PerImageFactor, own: PerImageFactor, of_mean: PerImageFactor) -> Pixels:
    """Blend each pixel with its luminance and its image's: brightness, contrast, saturation, or (1, 0, 0) for none."""
    grey = luminance(pixels)
    other = torch.addcmul(own * grey, of_mean, grey.mean((1, 2, 3), keepdim=True))
    return torch.addcmul(other, pixels, share).clamp_(0, 1)


def grey_some(pixels: Pixels, chosen: PerImageFactor) -> Pixels:
    """Put the luminance in all colours of the images for which `chosen` is 1."""
    return torch.where(chosen > 0, luminance(pixels), pixels)


def blur_squares(pixels: Rendered, sigma: PerImage) -> Rendered:
    """Blur as `augment.blur` does, also for sigma 0, by two large matrix products; colours innermost."""
    n, channels, size, _ = pixels.shape
    matrix: Tensor = blur_matrix(sigma.clamp(min=NO_BLUR), size, blur_kernel_size(size))  # (n, S, S)
    along = pixels.reshape(n, channels * size, size) @ matrix.transpose(1, 2)
    turned = along.view(n, channels, size, size).permute(0, 2, 3, 1).reshape(n, size, size * channels)
    return (matrix @ turned).view(n, size, size, channels).permute(0, 3, 1, 2)
