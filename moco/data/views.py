"""Images and what was drawn for them -> normalised views, by the compiled kernels where these are installed.

Both functions are augment.render and then augment.normalize, within rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moco.data.augment import (
    Augmentation,
    ViewParameters,
    blur_kernel_size,
    crop_fraction,
    crop_one,
    finish,
    normalize,
    render,
)
from moco.data.images import ArrayImages, Encoded, Images, Subset
from moco.data.jpeg import decode_plain, plain_size, shrink_for
from moco.errors import BadInputError
from moco.runtime.randomness import Integers
from moco.shapes import Bytes, Image, Interleaved, SquareViews

COMPILED = find_spec("numba") is not None
"""Whether the compiled kernels can be used: numba is an extra."""
Windows = npt.NDArray[np.float64]
Draw = Callable[[Integers], Sequence[ViewParameters]]
"""The parameters of the views of images of these sizes (n, 2)."""
Replace = Callable[[int, BadInputError], int]
"""A row of a batch whose image cannot be read, and why -> the image to take in its place."""


@dataclass(frozen=True)
class Look:
    """What all views of a run have in common."""

    augmentation: Augmentation
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    compiled: bool = COMPILED
    """By the compiled kernels, else by torch's operations: equal within rounding."""


@dataclass(frozen=True)
class Photo:
    """An image before its views are drawn: a plain JPEG as it is, anything else decoded."""

    index: int
    size: tuple[int, int]
    content: bytes | None
    image: Image | None


def of_array(images: Bytes, parameters: ViewParameters, look: Look) -> SquareViews:
    """A view of each image of one size, normalised: by torch's operations on a GPU, where the images are there."""
    if not look.compiled or images.device.type != "cpu":
        return normalize(render(images, parameters, look.augmentation, look.size), look.mean, look.std)
    out = _room(len(images), look.size, look.size, 3)
    _make_compiled(images, parameters.crop.astype(np.float64), parameters, slice(None), look, out)
    return out.permute(0, 3, 1, 2)


def of_any(
    images: Images,
    index: Integers,
    draw: Draw,
    look: Look,
    *,
    scaled: bool = False,
    device: str = "cpu",
    replace: Replace | None = None,
) -> list[SquareViews]:
    """The views that `draw` gives of the images of `index`: on `device` of images in memory, else as `of_images`."""
    if not isinstance(images, ArrayImages):
        return of_images(images, index, draw, look, scaled=scaled, replace=replace or refuse)
    for row in index if images.unreadable and replace is None else ():
        if int(row) in images.unreadable:
            raise BadInputError(images.unreadable[int(row)])
    pixels = images.pixels[torch.from_numpy(index)].to(device)
    sizes = np.broadcast_to(np.array(pixels.shape[2:]), (len(index), 2))
    return [of_array(pixels, parameters, look) for parameters in draw(sizes)]


def refuse(row: int, error: BadInputError) -> int:
    """Let nothing stand in for an image that cannot be read."""
    raise error


def of_images(
    images: Images, index: Integers, draw: Draw, look: Look, *, scaled: bool = False, replace: Replace = refuse
) -> list[SquareViews]:
    """The views that `draw` gives of the images of `index`, each decoded once, for all its views, and not kept.

    With `scaled`, a photograph is decoded at a half, a quarter or an eighth of its size where every crop of it still
    has as many pixels as a view. What is drawn depends on the size of the file, and the crops shrink with the image.
    Raises BadInputError for an image that cannot be read, unless `replace` names another.
    """
    photos = [_photo(images, row, int(i), replace) for row, i in enumerate(index)]
    drawn = draw(np.array([photo.size for photo in photos]))
    shape = (look.size, look.size, 3) if look.compiled else (3, look.size, look.size)
    outs = [_room(len(photos), *shape) for _ in drawn]
    for row in range(len(photos)):
        while True:
            shortest = min(int(parameters.crop[row, 2:].min()) for parameters in drawn)
            try:
                image, shrink = _decoded(images, photos[row], shrink_for(shortest, look.size) if scaled else 1)
                break
            except BadInputError as error:  # its header was sound
                photos[row] = _photo(images, row, replace(row, error), replace)
                drawn = draw(np.array([photo.size for photo in photos]))  # other rows stay as they are
        for parameters, out in zip(drawn, outs, strict=True):
            window = parameters.crop[row]
            if look.compiled:
                _make_compiled(
                    image[None], window[None] / shrink, parameters, slice(row, row + 1), look, out[row : row + 1]
                )
            elif shrink == 1:
                out[row] = crop_one(image, window.tolist(), look.size)
            else:
                out[row] = crop_fraction(image, (window / shrink).tolist(), look.size)
    if look.compiled:
        return [out.permute(0, 3, 1, 2) for out in outs]
    return [
        normalize(finish(out, parameters, look.augmentation), look.mean, look.std)
        for parameters, out in zip(drawn, outs, strict=True)
    ]


def _room(*shape: int) -> Tensor:
    """A new tensor; numpy asks for large pages, and a batch's first touch of small ones takes a third of its time."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _photo(images: Images, row: int, index: int, replace: Replace) -> Photo:
    while True:
        try:
            content = _encoded(images, index)
            size = None if content is None else plain_size(content)
            if size is not None:
                return Photo(index, size, content, None)
            image = images[index]
            return Photo(index, (image.shape[1], image.shape[2]), None, image)
        except BadInputError as error:
            index = replace(row, error)


def _encoded(images: Images, index: int) -> bytes | None:
    """The file of an image, if it has one."""
    while isinstance(images, Subset):
        index, images = int(images.rows[index]), images.images
    return images.encoded(index) if isinstance(images, Encoded) else None


def _decoded(images: Images, photo: Photo, shrink: int) -> tuple[Image, int]:
    """The image, and by how much it is smaller than drawn for."""
    if photo.image is not None:
        return photo.image, 1
    assert photo.content is not None
    image = decode_plain(photo.content, shrink)
    return (images[photo.index], 1) if image is None else (image, shrink)


def _make_compiled(
    images: Bytes, windows: Windows, parameters: ViewParameters, rows: slice, look: Look, out: Interleaved
) -> None:
    """Write the views with some rows of `parameters` into `out`."""
    from moco.data import compiled_crop, compiled_finish

    n, _, height, width = images.shape
    mean, std = np.array(look.mean, np.float32), np.array(look.std, np.float32)
    pixels = np.empty((n, 3, look.size, look.size), np.float32)
    compiled_crop.crop(images.permute(0, 2, 3, 1).reshape(n, height, 3 * width).numpy(), windows, pixels)
    compiled_finish.finish(
        pixels, parameters.factors[rows], parameters.order[rows], parameters.grey[rows],
        look.augmentation.grey_first, parameters.sigma[rows], blur_kernel_size(look.size), parameters.flip[rows], mean,
        std, out.numpy(),
    )  # fmt: skip
