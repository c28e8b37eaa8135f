"""The chosen images of a batch -> normalised views: read, then draw, then render.

Rendering is augment.render and then augment.normalize, within rounding; compiled kernels do it where numba is there.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moco.data.augment import (
    Augmentation,
    ViewParameters,
    blur_kernel_size,
    crop_one,
    draw,
    finish,
    normalize,
    render,
    resampling_matrix,
    turn,
)
from moco.data.forms import to_unit
from moco.data.jpeg import choose_shrink
from moco.data.parts import draw_parts
from moco.data.photos import Photo, decode_photo, read_photo
from moco.data.replacement import ChosenImages
from moco.errors import BadInputError, one_line
from moco.runtime.randomness import Integers, Stream
from moco.shapes import Bytes, Image, Interleaved, Square, SquareViews

COMPILED = find_spec("numba") is not None
"""The compiled kernels need numba, which is an extra."""
Windows = npt.NDArray[np.float64]


@functools.cache
def can_compile() -> bool:
    """Return whether the compiled kernels work here; where numba is installed and fails, a warning says why, once."""
    if not COMPILED:
        return False
    try:
        from moco.data import compiled_crop, compiled_finish

        pixels = np.zeros((1, 3, 2, 2), np.float32)
        compiled_crop.crop(np.zeros((1, 4, 12), np.uint8), np.array([[0.0, 0.0, 4.0, 4.0]]), pixels)
        return callable(compiled_finish.finish_into)
    except Exception as error:  # noqa: BLE001 - whatever an extra that is broken raises
        warnings.warn(
            f"numba does not work here ({one_line(error)[:200]}): views are made by torch, which is slower and equal "
            f"within rounding; if it has no folder that can be written, set NUMBA_CACHE_DIR to one",
            stacklevel=2,
        )
        return False


@dataclass(frozen=True)
class Look:
    """The properties that all views of a run have in common."""

    augmentation: Augmentation
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    scaled: bool = False
    """Decode a photograph at a half, a quarter or an eighth of its size where every crop keeps a view's pixels."""
    crops: int = 0
    """Views are parts of the whole image in every epoch that these crops + 1 divide, and of one crop in each other."""
    compiled: bool = field(default_factory=lambda: can_compile())
    """Render by the compiled kernels, else by torch's operations: equal within rounding."""


def make_views(chosen: ChosenImages, streams: Sequence[Stream], look: Look) -> list[SquareViews]:
    """Make the views of the chosen images, one tensor (n, 3, S, S) for each stream.

    Images that cannot be read are replaced in `chosen`, or BadInputError is raised where it has no stand-ins.
    """
    chosen.replace_known()
    if chosen.images.form is not None:  # the compiled kernels are for bytes of RGB
        look = replace(look, compiled=False)
    pixels = chosen.images.stack(chosen.index)
    if pixels is None:
        return _make_views_of_files(chosen, streams, look)
    drawn = draw_views_of_one_size(chosen, pixels, streams, look)
    return [render_array(pixels, parameters, look) for parameters in drawn]


def _make_views_of_files(chosen: ChosenImages, streams: Sequence[Stream], look: Look) -> list[SquareViews]:
    outs = [_new_views(len(chosen.index), look) for _ in streams]

    def use(row: int, image: Image, shrink: int, drawn: Sequence[ViewParameters]) -> None:
        for parameters, out in zip(drawn, outs, strict=True):
            _render_row(image, shrink, parameters, row, look, out)

    drawn = decode_rows(chosen, streams, look, use)
    if look.compiled:
        return [_turned(out, parameters) for parameters, out in zip(drawn, outs, strict=True)]
    return [
        normalize(finish(out, parameters, look.augmentation), look.mean, look.std)
        for parameters, out in zip(drawn, outs, strict=True)
    ]


def decode_rows(
    chosen: ChosenImages, streams: Sequence[Stream], look: Look,
    use: Callable[[int, Image, int, Sequence[ViewParameters]], None],
) -> list[ViewParameters]:  # fmt: skip
    """Decode the image of each row once, for all its views, hand it to `use`, and do not keep it.

    `use` gets the row, the image, how many times smaller that is than drawn for, and what was drawn, which is returned.
    It depends on the size in the file's header. Where the pixels cannot be decoded after all, another round takes a
    stand-in from the beginning; what is drawn for the other rows stays the same.
    """
    rows, photos = list(range(len(chosen.index))), dict[int, Photo]()
    drawn: list[ViewParameters] = []
    while rows:
        photos |= {row: read_photo(chosen, row) for row in rows}
        drawn = _draw_views(chosen, np.array([photos[row].size for row in sorted(photos)]), streams, look)
        undecodable = []
        for row in rows:
            try:
                image, shrink = decode_photo(chosen.images, photos[row], _choose_row_shrink(drawn, row, look))
            except BadInputError as error:
                chosen.replace(row, error)
                undecodable.append(row)
                continue
            use(row, image, shrink, drawn)
        rows = undecodable
    return drawn


def draw_views_of_one_size(
    chosen: ChosenImages, pixels: Bytes, streams: Sequence[Stream], look: Look
) -> list[ViewParameters]:
    """Draw the parameters of views of images that all have the size of `pixels`."""
    sizes = np.broadcast_to(np.array(pixels.shape[2:]), (len(chosen.index), 2))
    return _draw_views(chosen, sizes, streams, look)


def _draw_views(chosen: ChosenImages, sizes: Integers, streams: Sequence[Stream], look: Look) -> list[ViewParameters]:
    """Draw the parameters of one view of each chosen image for each stream; sizes (n, 2) are heights and widths."""
    form = chosen.images.form
    parts = draw_parts(sizes, look.crops, seed=chosen.seed, epoch=chosen.epochs, index=chosen.index)
    drawn = [
        draw(
            look.augmentation, parts[:, 2:], seed=chosen.seed, epoch=chosen.epochs, index=chosen.index, view=stream,
            deviations=() if form is None else form.std,
        )
        for stream in streams
    ]  # fmt: skip
    corner = parts * (1, 1, 0, 0)
    return [replace(parameters, crop=parameters.crop + corner) for parameters in drawn]


def _choose_row_shrink(drawn: Sequence[ViewParameters], row: int, look: Look) -> int:
    """Choose how much smaller the image of a row may be decoded, so that all its crops keep the pixels of a view."""
    if not look.scaled:
        return 1
    return choose_shrink(min(int(parameters.crop[row, 2:].min()) for parameters in drawn), look.size)


def render_array(images: Bytes, parameters: ViewParameters, look: Look) -> SquareViews:
    """Render a view of each image of one size."""
    if not look.compiled:
        return normalize(render(images, parameters, look.augmentation, look.size), look.mean, look.std)
    out = _new_tensor(len(images), look.size, look.size, 3)
    _render_compiled(images, parameters.crop.astype(np.float64), parameters, slice(None), look, out)
    return _turned(out, parameters)


def _turned(out: Interleaved, parameters: ViewParameters) -> SquareViews:
    """Do what the compiled kernels leave out: quarter turns, in place."""
    views = out.permute(0, 3, 1, 2)
    turn(views, parameters.turns)
    return views


def _render_row(image: Image, shrink: int, parameters: ViewParameters, row: int, look: Look, out: Tensor) -> None:
    """Write the view of an image that is `shrink` times smaller than drawn for; without kernels, its crop only."""
    window = parameters.crop[row]
    if look.compiled:
        one = slice(row, row + 1)
        _render_compiled(image[None], window[None] / shrink, parameters, one, look, out[one])
    else:
        out[row] = _crop_by_torch(image, window, shrink, look.size)


def crop_bytes(image: Image, shrink: int, window: Integers, look: Look, out: Image) -> None:
    """Write a crop of an image that is `shrink` times smaller than drawn for into `out` (3, S, S), rounded to bytes."""
    if look.compiled:
        from moco.data.compiled_crop import round_into

        round_into(_crop_compiled(image[None], window[None] / shrink, look.size)[0], out.numpy())
    else:
        out.copy_((_crop_by_torch(image, window, shrink, look.size) * 255).round_())


def _crop_by_torch(image: Image, window: Integers, shrink: int, size: int) -> Square:
    if shrink == 1:
        return crop_one(image, window.tolist(), size)
    return crop_fraction(image, (window / shrink).tolist(), size)


def crop_fraction(image: Image, window: Sequence[float], size: int) -> Square:
    """Crop as `crop_one` does, from a window with fractional borders; a pixel is inside if its centre is."""
    top, left, height, width = window
    maps, cut = [], image
    for axis, (start, length) in enumerate(((top, height), (left, width)), 1):
        first, last = int(start), min(math.ceil(start + length), image.shape[axis])
        cut = cut.narrow(axis, first, last - first)
        place = [torch.tensor([value], device=image.device) for value in (start - first, length)]
        maps.append(resampling_matrix(place[0], place[1], last - first, size)[0])
    return maps[0] @ to_unit(cut) @ maps[1].T


def _new_views(count: int, look: Look) -> Tensor:
    """Make room for the views of `count` images, colours last if they are compiled."""
    return _new_tensor(count, *((look.size, look.size, 3) if look.compiled else (len(look.mean), look.size, look.size)))


def _new_tensor(*shape: int) -> Tensor:
    """Allocate by numpy, which asks for large pages: the first touch of small ones takes a third of a batch's time."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _render_compiled(
    images: Bytes, windows: Windows, parameters: ViewParameters, rows: slice, look: Look, out: Interleaved
) -> None:
    """Write the views with some rows of `parameters` into `out`."""
    from moco.data import compiled_finish

    mean, std = np.array(look.mean, np.float32), np.array(look.std, np.float32)
    pixels = _crop_compiled(images, windows, look.size)
    compiled_finish.finish_into(
        pixels, parameters.factors[rows], parameters.order[rows], parameters.grey[rows],
        look.augmentation.grey_first, parameters.sigma[rows], blur_kernel_size(look.size), parameters.flip[rows], mean,
        std, out.numpy(),
    )  # fmt: skip


def _crop_compiled(images: Bytes, windows: Windows, size: int) -> npt.NDArray[np.float32]:
    from moco.data import compiled_crop

    n, _, height, width = images.shape
    pixels = np.empty((n, 3, size, size), np.float32)
    compiled_crop.crop(images.permute(0, 2, 3, 1).reshape(n, height, 3 * width).numpy(), windows, pixels)
    return pixels
