"""The views of v1, v2 and the authors' CIFAR-10 notebook, in batches, with parameters for each image.

Every operation equals torchvision's tensor function in float32 for the same parameters (tests state the largest
difference). The parameters are a pure function of (seed, epoch, index, view).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.data.bands import BandParameters, add_noise, adjust_bands, draw_bands
from moco.data.forms import to_unit
from moco.runtime.randomness import Integers, IntegersLike, Reals, Stream, uniforms
from moco.shapes import (
    Bytes,
    ColourFactors,
    Grey,
    Image,
    LineMaps,
    PerImage,
    PerImageFactor,
    Pixels,
    Rendered,
    Square,
    Views,
    Windows,
)


@dataclass(frozen=True)
class Augmentation:
    """The operations that make a view, with their strengths: crop, colour (grey before or after jitter), blur, flip."""

    crop_scale: tuple[float, float]
    """Share of the image's area that a crop covers."""
    jitter: tuple[float, float, float, float]
    """Strength of brightness, contrast, saturation and hue."""
    jitter_probability: float
    grey_probability: float = 0.2
    blur_probability: float = 0.0
    flip_probability: float = 0.5
    quarter_turns: bool = False
    """Whether views are turned by 0 to 3 quarters of a circle, each equally often."""
    grey_first: bool = False
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    blur_sigma: tuple[float, float] = (0.1, 2.0)


AUGMENTATIONS = {
    "v1": Augmentation((0.2, 1.0), (0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, grey_first=True),
    "v2": Augmentation((0.2, 1.0), (0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, blur_probability=0.5),
    "cifar": Augmentation((0.08, 1.0), (0.4, 0.4, 0.4, 0.1), jitter_probability=0.8),
    "mild": Augmentation((0.6, 1.0), (0.1, 0.1, 0.1, 0.025), jitter_probability=0.8, grey_probability=0.05),
}
"""v1, section 3.3; v2, section 2 (after SimCLR); the authors' CIFAR-10 notebook; a student's views of images whose
keys were encoded whole (docs/teacher.md)."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array([[a, b, c, d] for a in range(4) for b in range(4) for c in range(4) for d in range(4)
                   if len({a, b, c, d}) == 4])  # fmt: skip
"""The 24 possible orders of the four colour operations."""
CROP_TRIES = 10


@dataclass(frozen=True)
class ViewParameters:
    """The parameters that were drawn for n views, one row each."""

    crop: Integers
    """(n, 4): top, left, height, width, in pixels."""
    factors: npt.NDArray[np.float32]
    """(n, 4): factors of brightness, contrast and saturation, shift of hue."""
    order: Integers
    """(n, 4): the order of these operations; -1 for none."""
    grey: npt.NDArray[np.bool_]
    sigma: npt.NDArray[np.float32]
    """(n,): the blur's standard deviation in pixels; 0 for no blur."""
    flip: npt.NDArray[np.bool_]
    turns: Integers | None = None
    """(n,): quarter turns, counterclockwise; None where views are not turned."""
    bands: BandParameters | None = None
    """In place of factors, order and grey, where images are no RGB."""


def draw(
    augmentation: Augmentation, sizes: Integers, *, seed: int, epoch: IntegersLike, index: IntegersLike, view: Stream,
    deviations: Sequence[float] = (),
) -> ViewParameters:  # fmt: skip
    """Draw the parameters of a view of each image of `index`; sizes (n, 2) are the images' heights and widths.

    Each has the distribution of torchvision's transform of that name. `deviations` are those of each channel where
    images are no RGB: then brightness and contrast are drawn for each channel, and noise.
    """
    u = uniforms(4 * CROP_TRIES + 11, seed=seed, stream=view, epoch=epoch, index=index)
    n, v = len(u), u[:, 4 * CROP_TRIES :]
    low = [max(0.0, 1 - strength) for strength in augmentation.jitter[:HUE]] + [-augmentation.jitter[HUE]]
    high = [1 + strength for strength in augmentation.jitter[:HUE]] + [augmentation.jitter[HUE]]
    jittered = v[:, 4] < augmentation.jitter_probability
    order = ORDERS[np.minimum((v[:, 5] * len(ORDERS)).astype(np.int64), len(ORDERS) - 1)]
    sigma = augmentation.blur_sigma[0] + v[:, 8] * (augmentation.blur_sigma[1] - augmentation.blur_sigma[0])
    return ViewParameters(
        crop=_draw_crops(augmentation, sizes, u[:, : 4 * CROP_TRIES].reshape(n, CROP_TRIES, 4)),
        factors=(np.array(low) + v[:, :4] * (np.array(high) - np.array(low))).astype(np.float32),
        order=np.where(jittered[:, None], order, -1),
        grey=v[:, 6] < augmentation.grey_probability,
        sigma=np.where(v[:, 7] < augmentation.blur_probability, sigma, 0).astype(np.float32),
        flip=v[:, 9] < augmentation.flip_probability,
        turns=(4 * v[:, 10]).astype(np.int64) if augmentation.quarter_turns else None,
        bands=draw_bands(
            deviations, augmentation.jitter[:2], jittered, seed=seed, epoch=epoch, index=index, view=view
        ) if deviations else None,
    )  # fmt: skip


def _draw_crops(augmentation: Augmentation, sizes: Integers, u: Reals) -> Integers:
    """Take the first of ten tries (n, 10, 4) whose window fits, or the largest centred window of a permitted ratio."""
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    scale, ratio = augmentation.crop_scale, np.log(augmentation.crop_ratio)
    area = height * width * (scale[0] + u[..., 0] * (scale[1] - scale[0]))
    aspect = np.exp(ratio[0] + u[..., 1] * (ratio[1] - ratio[0]))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))  # (n, 10)
    top, left = np.floor(u[..., 2] * (height - h + 1)), np.floor(u[..., 3] * (width - w + 1))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(1)
    drawn = np.stack([top, left, h, w], axis=-1)[np.arange(len(sizes)), first]

    narrow, wide = augmentation.crop_ratio
    shape = width / height
    w = np.where(shape > wide, np.rint(height * wide), width)
    h = np.where(shape < narrow, np.rint(width / narrow), height)
    centred = np.concatenate([(height - h) // 2, (width - w) // 2, h, w], axis=1)
    return np.where(fits.any(1)[:, None], drawn, centred).astype(np.int64)


def render(
    images: Bytes | Sequence[Image], parameters: ViewParameters, augmentation: Augmentation, size: int
) -> Rendered:
    """Make a view of `size` x `size` pixels of each image: RGB in [0, 1]; images of one size come as one tensor."""
    if isinstance(images, Tensor):
        pixels = crop_batch(images, parameters.crop, size)
    else:
        pixels = torch.stack(
            [crop_one(image, window, size) for image, window in zip(images, parameters.crop.tolist(), strict=True)]
        )
    return finish(pixels, parameters, augmentation)


def finish(pixels: Rendered, parameters: ViewParameters, augmentation: Augmentation) -> Rendered:
    """Apply all that follows the crop, in place: colours, blur, noise (other channels only), flip, quarter turns."""
    bands = parameters.bands
    pixels = change_colours(pixels, parameters, augmentation) if bands is None else adjust_bands(pixels, bands)
    blurred = np.flatnonzero(parameters.sigma)
    if len(blurred):
        rows = torch.from_numpy(blurred).to(pixels.device)
        pixels[rows] = blur(pixels[rows], torch.from_numpy(parameters.sigma).to(pixels.device)[rows])
    if bands is not None:
        add_noise(pixels, bands)
    flip = torch.from_numpy(np.flatnonzero(parameters.flip)).to(pixels.device)
    pixels[flip] = pixels[flip].flip(-1)
    turn(pixels, parameters.turns)
    return pixels


def turn(pixels: Rendered, turns: Integers | None) -> None:
    """Turn each view by its number of quarter turns, in place."""
    for quarters in (1, 2, 3) if turns is not None else ():
        rows = torch.from_numpy(np.flatnonzero(turns == quarters)).to(pixels.device)
        pixels[rows] = pixels[rows].rot90(quarters, (-2, -1))


def change_colours(pixels: Rendered, parameters: ViewParameters, augmentation: Augmentation) -> Rendered:
    """Apply the RGB colour operations in place: brightness, contrast, saturation, hue and grey."""
    grey = torch.from_numpy(np.flatnonzero(parameters.grey)).to(pixels.device)
    if augmentation.grey_first:
        pixels[grey] = to_grey(pixels[grey])
    jitter(pixels, parameters.order, torch.from_numpy(parameters.factors).to(pixels.device))
    if not augmentation.grey_first:
        pixels[grey] = to_grey(pixels[grey])
    return pixels


def normalize(pixels: Pixels, mean: Sequence[float], std: Sequence[float]) -> Views:
    """Compute (pixels - mean) / std for each channel, stored with the channels innermost."""
    shift, scale = (pixels.new_tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
    return ((pixels - shift) / scale).contiguous(memory_format=torch.channels_last)


def crop_one(image: Image, window: Sequence[int], size: int) -> Square:
    """Cut a window (top, left, height, width) out of an image and resize it to size x size: bilinear, antialiased."""
    top, left, height, width = window
    cut = to_unit(image[None, :, top : top + height, left : left + width])
    return F.interpolate(cut, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def crop_batch(images: Bytes, windows: Integers, size: int) -> Rendered:
    """Crop as `crop_one` does, a batch of images of one size, by two matrix products."""
    return crop_windows(images, torch.from_numpy(windows).to(images.device, torch.float32), size)


def crop_windows(images: Bytes, window: Windows, size: int) -> Rendered:
    """Crop as `crop_batch` does, with windows that are on the images' device."""
    n, channels, height, width = images.shape
    rows = resampling_matrix(window[:, 0], window[:, 2], height, size)  # (N, S, H)
    rows = rows / 255 if images.dtype == torch.uint8 else rows
    columns = resampling_matrix(window[:, 1], window[:, 3], width, size)  # (N, S, W)
    pixels = images.float().reshape(n, channels * height, width) @ columns.transpose(1, 2)  # (N, 3 H, S)
    pixels = pixels.view(n, channels, height, size).transpose(1, 2).reshape(n, height, channels * size)
    return (rows @ pixels).view(n, size, channels, size).transpose(1, 2).contiguous()


def resampling_matrix(start: PerImage, length: PerImage, in_size: int, out_size: int) -> LineMaps:
    """Compute the antialiased bilinear (triangle) filter that resizes [start, start + length) to out_size pixels."""
    pixel = torch.arange(in_size, device=start.device) + 0.5
    scale = (length / out_size)[:, None]  # (N, 1)
    centre = start[:, None] + scale * (torch.arange(out_size, device=start.device) + 0.5)  # (N, out)
    distance = (pixel - centre[..., None]).abs() / scale.clamp(min=1)[..., None]  # (N, out, in)
    inside = (pixel >= start[:, None]) & (pixel <= (start + length)[:, None])  # (N, in)
    weight = (1 - distance).clamp(min=0) * inside[:, None]
    return weight / weight.sum(2, keepdim=True)


def to_grey(pixels: Pixels) -> Pixels:
    """Put the luminance (ITU-R 601-2) in all three colours."""
    return luminance(pixels).expand_as(pixels)


def luminance(pixels: Pixels) -> Grey:
    """Compute 0.2989 R + 0.587 G + 0.114 B."""
    r, g, b = pixels.unbind(1)
    return (0.2989 * r + 0.587 * g + 0.114 * b)[:, None]


def jitter(pixels: Pixels, order: Integers, factors: ColourFactors) -> None:
    """Apply the colour operations to each image, in place, in its own order and with its own factors."""
    for position in range(4):
        for operation, function in enumerate((adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)):
            chosen = np.flatnonzero(order[:, position] == operation)
            if len(chosen):
                rows = torch.from_numpy(chosen).to(pixels.device)
                pixels[rows] = function(pixels[rows], factors[rows, operation].view(-1, 1, 1, 1))


def adjust_brightness(pixels: Pixels, factor: PerImageFactor) -> Pixels:
    """Blend with black."""
    return (pixels * factor).clamp_(0, 1)


def adjust_contrast(pixels: Pixels, factor: PerImageFactor) -> Pixels:
    """Blend with the image's mean luminance."""
    mean = luminance(pixels).mean((1, 2, 3), keepdim=True)
    return torch.addcmul((1 - factor) * mean, pixels, factor).clamp_(0, 1)


def adjust_saturation(pixels: Pixels, factor: PerImageFactor) -> Pixels:
    """Blend with each pixel's luminance."""
    return torch.addcmul((1 - factor) * luminance(pixels), pixels, factor).clamp_(0, 1)


def adjust_hue(pixels: Pixels, shift: PerImageFactor) -> Pixels:
    """Turn the hue by `shift` of a full circle, in HSV, value and saturation kept.

    With V the largest, C the largest minus the smallest colour and H the hue in sixths of a circle, each colour is
    V - C max(0, min(k, 4 - k, 1)) with k = (5, 3, 1) + H modulo 6 (for red, green and blue).
    """
    r, g, b = pixels.unbind(1)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sixths = sixths + 6 * shift[:, 0]
    k = torch.stack([sixths + 5, sixths + 3, sixths + 1], dim=1).remainder_(6)
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.addcmul(value[:, None], chroma[:, None], share, value=-1)


def blur_kernel_size(size: int) -> int:
    """Compute a tenth of the side, made odd: 23 at 224 pixels (SimCLR, arXiv:2002.05709, appendix A)."""
    return int(0.1 * size) | 1


def blur(pixels: Pixels, sigma: PerImage) -> Pixels:
    """Blur each image with a Gaussian of its own sigma, reflected at the borders, as two matrix products."""
    rows, columns = (blur_matrix(sigma, side, blur_kernel_size(side))[:, None] for side in pixels.shape[2:])
    return rows @ pixels @ columns.transpose(2, 3)


def blur_matrix(sigma: PerImage, size: int, kernel_size: int) -> LineMaps:
    """Compute what blurs a line of pixels by a Gaussian kernel, reflected at both ends."""
    reach = kernel_size // 2
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = (-0.5 * (offset / sigma[:, None]) ** 2).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    source = (torch.arange(size, device=sigma.device)[:, None] + offset).abs()  # (S, taps), reflected at 0
    source = (size - 1) - ((size - 1) - source).abs()  # and at the far side
    matrix = sigma.new_zeros(len(sigma), size, size)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1))
