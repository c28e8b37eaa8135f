"""Crop and resize, compiled for the processor by numba (an extra): as augment.crop_one and views.crop_fraction do.

Numba keeps the machine code on disk, and makes it again when the file changes: so no compiled function calls one of
another file.
"""

import inspect
from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., object])
Bytes = npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float32]
Real = np.float32
Positions = npt.NDArray[np.int64]


def compile_function(function: Function) -> Function:
    """Compile the function to machine code, kept on disk; the interpreter's lock is free while it runs."""
    plain: Function = inspect.unwrap(function)  # types are not to be checked inside
    # A division by a constant may be a product: rounding, never another order of sums. a * b + c may not be one
    # instruction ("contract"): the process that compiles then rounds otherwise than those that read its code from disk.
    exact_enough = {"arcp", "nsz"}
    return numba.njit(nogil=True, error_model="numpy", fastmath=exact_enough, cache=True)(plain)


@compile_function
def crop(images: Bytes, windows: npt.NDArray[np.float64], pixels: Reals) -> None:
    """Resize a window of each image (n, H, 3 W), colours innermost, into pixels (n, 3, S, S) in [0, 1].

    Windows (n, 4) are top, left, height and width in pixels of the image, not necessarily whole ones; a pixel belongs
    to a window if its centre does.
    """
    size, in_height, in_width = pixels.shape[2], images.shape[1], images.shape[2] // 3
    for n in range(len(images)):
        top, left, height, width = windows[n]
        rows, row_weights = line_weights(top, height, in_height, size, 1 / 255)
        columns, column_weights = line_weights(left, width, in_width, size, 1.0)
        taps = column_weights.shape[1]
        begin, end = columns.min(), min(columns.max() + taps, in_width)
        window = images[n, :, 3 * begin : 3 * end]
        columns -= begin
        line = np.zeros(3 * (end - begin + taps), np.float32)  # weights of 0 reach beyond the end
        used = 2
        for k in range(2, taps):
            if column_weights[:, k].max() > 0:
                used = k + 1
        for y in range(size):
            resize_rows(window, rows[y], row_weights[y], line[: window.shape[1]])
            red, green, blue = pixels[n, 0, y], pixels[n, 1, y], pixels[n, 2, y]
            resize_row(line, columns, column_weights, used, red, green, blue)


@compile_function
def round_into(pixels: Reals, out: Bytes) -> None:
    """Write pixels (c, S, S) in [0, 1] into `out` as bytes, each rounded to the nearest."""
    for c in range(len(pixels)):
        for y in range(pixels.shape[1]):
            source, target = pixels[c, y], out[c, y]
            for x in range(source.size):
                target[x] = np.uint8(source[x] * np.float32(255) + np.float32(0.5))


@compile_function
def line_weights(
    start: float, length: float, in_size: int, out_size: int, scale: float
) -> tuple[Positions, Reals]:  # fmt: skip
    """Compute the triangle filter that resizes [start, start + length) to out_size pixels, times `scale`.

    First source pixels (out,) and weights (out, taps), with zeros at the end of a row where it has fewer taps.
    """
    step = length / out_size
    reach = max(step, 1.0)
    first, last = int(np.ceil(start - 0.5)), min(int(np.floor(start + length + 0.5)), in_size)
    taps = max(4, 2 * (int(np.ceil(reach)) + 1))
    source, weights = np.empty(out_size, np.int64), np.zeros((out_size, taps), np.float32)
    for i in range(out_size):
        centre = start + step * (i + 0.5)
        low = min(max(int(np.floor(centre - reach + 0.5)), first), last - 1)
        high = min(int(np.floor(centre + reach + 0.5)), last)
        source[i], total = low, 0.0
        for k in range(high - low):
            total += max(0.0, 1 - abs(low + k + 0.5 - centre) / reach)
        for k in range(high - low):
            weights[i, k] = max(0.0, 1 - abs(low + k + 0.5 - centre) / reach) / total * scale
    return source, weights


@compile_function
def resize_rows(window: Bytes, top: int, weights: Reals, line: Reals) -> None:
    """Write the weighted sum of the rows from `top` on to `line`."""
    last = len(window) - 1
    if weights[2] == 0:
        two_rows(window[top], window[min(top + 1, last)], weights[0], weights[1], line)
        return
    a, b, c, d = window[top], window[min(top + 1, last)], window[min(top + 2, last)], window[min(top + 3, last)]
    four_rows(a, b, c, d, weights[0], weights[1], weights[2], weights[3], line)
    for k in range(4, len(weights)):
        if weights[k] != 0:
            one_more_row(window[top + k], weights[k], line)


@compile_function
def two_rows(a: Bytes, b: Bytes, w_a: float, w_b: Real, line: Reals) -> None:
    """Write the weighted sum of two rows to `line`."""
    for i in range(line.size):
        line[i] = w_a * np.float32(a[i]) + w_b * np.float32(b[i])


@compile_function
def four_rows(a: Bytes, b: Bytes, c: Bytes, d: Bytes, w_a: Real, w_b: Real, w_c: float, w_d: Real, line: Reals) -> None:
    """Write the weighted sum of four rows to `line`."""
    for i in range(line.size):
        left = w_a * np.float32(a[i]) + w_b * np.float32(b[i])
        line[i] = left + w_c * np.float32(c[i]) + w_d * np.float32(d[i])


@compile_function
def one_more_row(a: Bytes, weight: Real, line: Reals) -> None:
    """Add a weighted row to `line`."""
    for i in range(line.size):
        line[i] += weight * np.float32(a[i])


@compile_function
def resize_row(
    line: Reals, columns: Positions, weights: Reals, used: int, red: Reals, green: Reals, blue: Reals
) -> None:
    """Resize a line of pixels, colours innermost, to one line for each colour; `used` is the largest number of taps."""
    one, two = np.uintp(1), np.uintp(2)  # unsigned: no check for a place before the beginning
    for x in range(red.size):
        at = np.uintp(3 * columns[x])
        w = weights[x, 0]
        r, g, b = w * line[at], w * line[at + one], w * line[at + two]
        w, at = weights[x, 1], at + np.uintp(3)
        r, g, b = r + w * line[at], g + w * line[at + one], b + w * line[at + two]
        if used > 2:
            w, at = weights[x, 2], at + np.uintp(3)
            r, g, b = r + w * line[at], g + w * line[at + one], b + w * line[at + two]
            for k in range(3, used):
                w, at = weights[x, k], at + np.uintp(3)
                r, g, b = r + w * line[at], g + w * line[at + one], b + w * line[at + two]
        red[x], green[x], blue[x] = r, g, b
