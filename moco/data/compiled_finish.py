"""Colours, blur, flip and normalisation, compiled by numba (an extra): what augment.finish and normalize compute.

A strip of an image stays in the first cache for all its colour operations, and an image's pixels in the second until
they are written, normalised: torch's operations go through main memory once each.
"""

import numpy as np
import numpy.typing as npt

from moco.data.augment import BRIGHTNESS, CONTRAST, HUE, SATURATION
from moco.data.compiled_crop import Positions, Real, Reals, compile_function

Flags = npt.NDArray[np.bool_]
Pair = tuple[np.uintp, np.uintp]
Triple = tuple[np.float32, np.float32, np.float32]

ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX = (np.float32(number) for number in range(7))
SIXTH = np.float32(1 / 6)
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
STRIP = 1024
"""Pixels that are worked on at a time: they and what becomes of them fit into the first cache."""
NEGLIGIBLE = 1e-7
"""Weights of a blur below this share of the largest are left out: less than fp32 can tell."""


@compile_function
def finish_into(
    pixels: Reals, factors: Reals, order: Positions, grey: Flags, grey_first: bool, sigma: Reals, kernel_size: int,
    flip: Flags, mean: Reals, std: Reals, out: Reals,
) -> None:  # fmt: skip
    """Write what pixels (n, 3, S, S), which are used up, become into out (n, S, S, 3); the rest is ViewParameters'."""
    size = out.shape[1]
    line, padded = np.empty((3, size), np.float32), np.empty(size + kernel_size, np.float32)
    scale = (ONE / std[0], ONE / std[1], ONE / std[2])
    shift = (-mean[0] * scale[0], -mean[1] * scale[1], -mean[2] * scale[2])
    for n in range(len(out)):
        flat, written = pixels[n].reshape(3, size * size), out[n].reshape(3 * size * size)
        contrast_at = 4
        for position in range(4):
            if order[n, position] == CONTRAST:
                contrast_at = position
        before, after = order[n, :contrast_at], order[n, contrast_at:]
        grey_after = grey[n] and not grey_first
        if contrast_at < 4:
            luminance = colour(flat, before, factors[n], ZERO, grey[n] and grey_first, False, True)
            mean_grey = (ONE - factors[n, CONTRAST]) * np.float32(luminance / (size * size))
            colour(flat, after, factors[n], mean_grey, False, grey_after, False)
        else:
            colour(flat, before, factors[n], ZERO, grey[n] and grey_first, grey_after, False)
        weights = blur_weights(sigma[n], kernel_size)
        if len(weights) > 1:
            for c in range(3):
                for y in range(size):
                    blur_row(flat[c], y, size, weights, padded, line[0])
            for y in range(size):
                for c in range(3):
                    blur_column(flat[c], y, size, weights, line[c])
                store(line[0], line[1], line[2], flip[n], scale, shift, np.uintp(3 * size * y), written)
        else:
            for y in range(size):
                red, green, blue = pixels[n, 0, y], pixels[n, 1, y], pixels[n, 2, y]
                store(red, green, blue, flip[n], scale, shift, np.uintp(3 * size * y), written)


@compile_function
def colour(
    flat: Reals, order: Positions, factors: Reals, mean: Real, grey_first: bool, grey_last: bool, sum_up: bool
) -> float:
    """Apply the operations of `order` to an image (3, S S); with `sum_up` return the sum of its luminance.

    `mean` is (1 - the factor of contrast) times the image's mean luminance.
    """
    luminance = np.zeros(STRIP, np.float32)  # a sum for each place in a strip: the processor adds up eight at a time
    for begin in range(0, flat.shape[1], STRIP):
        end = begin + STRIP
        r, g, b = flat[0, begin:end], flat[1, begin:end], flat[2, begin:end]
        if grey_first:
            make_grey(r, g, b)
        for operation in order:
            if operation == BRIGHTNESS:
                blend(r, g, b, factors[BRIGHTNESS], ZERO)
            elif operation == CONTRAST:
                blend(r, g, b, factors[CONTRAST], mean)
            elif operation == SATURATION:
                blend_saturation(r, g, b, factors[SATURATION])
            elif operation == HUE:
                turn_hue(r, g, b, factors[HUE])
        if grey_last:
            make_grey(r, g, b)
        if sum_up:
            for i in range(r.size):
                luminance[i] += RED * r[i] + GREEN * g[i] + BLUE * b[i]
    return np.sum(luminance.astype(np.float64))


@compile_function
def blend(r: Reals, g: Reals, b: Reals, factor: Real, other: Real) -> None:
    """Blend each pixel with `other`: 0 for brightness, the mean for contrast."""
    for i in range(r.size):
        r[i] = min(max(r[i] * factor + other, ZERO), ONE)
        g[i] = min(max(g[i] * factor + other, ZERO), ONE)
        b[i] = min(max(b[i] * factor + other, ZERO), ONE)


@compile_function
def blend_saturation(r: Reals, g: Reals, b: Reals, factor: Real) -> None:
    """Blend with each pixel's luminance."""
    rest = ONE - factor
    for i in range(r.size):
        grey = rest * (RED * r[i] + GREEN * g[i] + BLUE * b[i])
        r[i] = min(max(r[i] * factor + grey, ZERO), ONE)
        g[i] = min(max(g[i] * factor + grey, ZERO), ONE)
        b[i] = min(max(b[i] * factor + grey, ZERO), ONE)


@compile_function
def turn_hue(r: Reals, g: Reals, b: Reals, shift: Real) -> None:
    """Turn the hue by `shift` of a full circle; the formula stands in augment.adjust_hue."""
    turn = SIX * shift
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(max(red, green), blue)
        chroma = value - min(min(red, green), blue)
        per_chroma = ONE / (chroma if chroma > ZERO else ONE)
        by_green = TWO + (blue - red) * per_chroma if value == green else FOUR + (red - green) * per_chroma
        sixths = turn + ((green - blue) * per_chroma if value == red else by_green)
        r[i] = value - chroma * compute_hue_ramp(sixths + FIVE)
        g[i] = value - chroma * compute_hue_ramp(sixths + THREE)
        b[i] = value - chroma * compute_hue_ramp(sixths + ONE)


@compile_function
def compute_hue_ramp(k: Real) -> Real:
    """Compute max(0, min(k, 4 - k, 1)) of k modulo 6."""
    k = k - SIX * np.floor(k * SIXTH)
    return max(ZERO, min(min(k, FOUR - k), ONE))


@compile_function
def make_grey(r: Reals, g: Reals, b: Reals) -> None:
    """Put the luminance in all three colours."""
    for i in range(r.size):
        grey = RED * r[i] + GREEN * g[i] + BLUE * b[i]
        r[i], g[i], b[i] = grey, grey, grey


@compile_function
def blur_weights(sigma: Real, kernel_size: int) -> Reals:
    """Compute the middle weight of a Gaussian kernel and those to one side; without a blur the middle alone."""
    weights = np.ones(kernel_size // 2 + 1, np.float32)
    if sigma == 0:
        return weights[:1]
    total, reach = 1.0, 0
    for k in range(1, len(weights)):
        weight = np.exp(-0.5 * (k / sigma) ** 2)
        weights[k] = weight
        total += 2 * weight
        if weight > NEGLIGIBLE:
            reach = k
    return weights[: reach + 1] / np.float32(total)


@compile_function
def blur_row(plane: Reals, y: int, size: int, weights: Reals, padded: Reals, line: Reals) -> None:
    """Blur row y of a plane (S S,) in place, reflected at both ends; `padded` and `line` are room for it."""
    reach, row = len(weights) - 1, plane[y * size : (y + 1) * size]
    for i in range(size):
        padded[reach + i] = row[i]
    for k in range(1, reach + 1):
        padded[reach - k], padded[reach + size - 1 + k] = row[k], row[size - 1 - k]
    add_one(padded, np.uintp(reach), weights[0], line)
    for k in range(1, reach, 2):
        near, far = (np.uintp(reach - k), np.uintp(reach + k)), (np.uintp(reach - k - 1), np.uintp(reach + k + 1))
        add_four(padded, near, far, weights[k], weights[k + 1], line)
    if reach % 2 == 1:
        add_two(padded, np.uintp(0), np.uintp(2 * reach), weights[reach], line)
    for i in range(size):
        row[i] = line[i]


@compile_function
def blur_column(plane: Reals, y: int, size: int, weights: Reals, line: Reals) -> None:
    """Write row y of a plane (S S,) that is blurred from top to bottom to `line`."""
    reach = len(weights) - 1
    add_one(plane, row_at(y, size), weights[0], line)
    for k in range(1, reach, 2):
        near = (row_at(y - k, size), row_at(y + k, size))
        far = (row_at(y - k - 1, size), row_at(y + k + 1, size))
        add_four(plane, near, far, weights[k], weights[k + 1], line)
    if reach % 2 == 1:
        add_two(plane, row_at(y - reach, size), row_at(y + reach, size), weights[reach], line)


@compile_function
def row_at(y: int, size: int) -> np.uintp:
    """Find where row y begins; rows beyond the border are mirrored at the outermost one."""
    return np.uintp(size * (size - 1 - abs(size - 1 - abs(y))))


@compile_function
def add_one(source: Reals, at: np.uintp, weight: Real, line: Reals) -> None:
    """Begin a weighted sum; unsigned places need no check for one before the beginning."""
    for i in range(line.size):
        line[i] = weight * source[at + np.uintp(i)]


@compile_function
def add_two(source: Reals, before: np.uintp, after: np.uintp, weight: Real, line: Reals) -> None:
    """Add what lies at the same distance and so has the same weight."""
    for i in range(line.size):
        line[i] += weight * (source[before + np.uintp(i)] + source[after + np.uintp(i)])


@compile_function
def add_four(source: Reals, near: Pair, far: Pair, weight: Real, far_weight: Real, line: Reals) -> None:
    """Add as two calls of `add_two` do, with half as many visits to `line`."""
    for i in range(line.size):
        at = np.uintp(i)
        nearer = weight * (source[near[0] + at] + source[near[1] + at])
        line[i] += nearer + far_weight * (source[far[0] + at] + source[far[1] + at])


@compile_function
def store(r: Reals, g: Reals, b: Reals, flip: bool, scale: Triple, shift: Triple, at: np.uintp, out: Reals) -> None:
    """Write a line times `scale` plus `shift` to `out` from `at` on, colours innermost, mirrored or not."""
    last, one, two = r.size - 1, np.uintp(1), np.uintp(2)
    for i in range(r.size):
        here, there = np.uintp(last - i if flip else i), at + np.uintp(3 * i)
        out[there] = r[here] * scale[0] + shift[0]
        out[there + one] = g[here] * scale[1] + shift[1]
        out[there + two] = b[here] * scale[2] + shift[2]
