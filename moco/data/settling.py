"""Decides how a set is read, from the flags and its files: as RGB bytes, or all channels at full depth."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np

from moco.data.channels import EXTRA, Values, is_deep, is_deep_colour, mask_missing
from moco.data.derived import take_evenly
from moco.data.forms import AUTO, RGB, Depth, Form, describe_kind, parse_channels, parse_no_data
from moco.data.images import Images
from moco.data.notes import Notes
from moco.data.tiff import count_pages
from moco.errors import BadInputError

LOOKED_AT = 16
"""Number of images inspected for their channels, spread evenly over the set."""
MEASURED = 64
"""Images that mean and standard deviation are measured of."""
FLAT = 1e-7
"""A channel that varies by no more than this, as a share of its largest value, is divided by 1."""


@dataclass(frozen=True)
class Asked:
    """What the flags of a command say about the images of `--data`."""

    channels: str = RGB
    bands: tuple[str, ...] = ()
    no_data: str | None = None
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation of each channel, where they are known already."""
    alike: bool = True
    """Refuse a set if some images have other channels than most; otherwise refuse only these, when read."""


class _Found(NamedTuple):
    """What was read of one image."""

    name: str
    values: Values


def settle_form(images: Images, asked: Asked, notes: Notes, data: str) -> Form | None:
    """Say what the images are; None for bytes of RGB. Mean and standard deviation are measured once, here.

    Raises BadInputError where the channels that are asked for are not there, or some images have others than the rest.
    """
    number = parse_channels(asked.channels)
    if asked.bands and number is None:
        number = len(asked.bands)
    if asked.channels == RGB and not asked.bands:
        return _keep_bytes(asked, notes)
    if images.in_memory:
        return _keep_form(images.form, number, asked, notes, data)
    deep = _count_deep(images, notes)
    if (number is None and deep <= 0.5) or (number == 3 and not deep and not asked.bands):
        return _keep_bytes(asked, notes)
    found = list(_read_some(images, LOOKED_AT, number))
    if not found:
        return None  # whatever else reads them says why they cannot be read
    (channels, depth), _ = Counter((len(own.values.array), own.values.depth) for own in found).most_common(1)[0]
    channels = number or channels
    if asked.alike:
        _require_alike(found, channels, depth, data)
    no_data = asked.no_data
    if no_data is None and (tag := Counter(own.values.no_data for own in found).most_common(1)[0][0]) is not None:
        no_data = _as_number(tag)
        notes.remark(f"its files say that {no_data} means that there is no value: it becomes its channel's mean")
    moments = asked.moments or _measure(images, channels, no_data)
    form = Form(channels, cast(Depth, depth), *moments, asked.bands, no_data)
    notes.remark(
        f"its images have {form.kind}, read at full depth"
        + ("" if asked.moments else f"; mean {_list(form.mean)}, standard deviation {_list(form.std)}, measured")
        + (f" (--channels {RGB} reads bytes of RGB)" if asked.channels == AUTO else "")
    )
    return form


def require_files(images: Images, form: Form, data: str) -> None:
    """Raise BadInputError where there are no files that could be read as channels."""
    own = images.form
    if images.in_memory and (own is None or own.kind != form.kind):
        found = "bytes of RGB" if own is None else own.kind
        raise BadInputError(f"--data {data}: {found}, expected images of {form.kind}, as the weights take")


def require_fitting_channels(images: Images, form: Form, data: str) -> None:
    """Raise BadInputError where none of some images has the channels that weights take: the weights are to blame."""
    some = [] if images.in_memory else list(_read_some(images, LOOKED_AT, form.channels))
    kinds = [describe_kind(len(own.values.array), own.values.depth) for own in some]
    if kinds and form.kind not in kinds:
        raise BadInputError(
            f"--data {data}: {some[0].name} is {kinds[0]}, and the weights take {form.kind}: give other weights, or "
            f"other images"
        )


def _keep_form(form: Form | None, number: int | None, asked: Asked, notes: Notes, data: str) -> Form | None:
    """Return what images in memory are, as they were packed. Raises BadInputError where something else is asked for."""
    if number not in (None, 3 if form is None else form.channels):
        found = "bytes of RGB in memory" if form is None else f"{form.kind}, as it was packed"
        raise BadInputError(f"--channels {number}: --data {data} has {found}: leave it out")
    if form is None:
        return _keep_bytes(asked, notes)
    if asked.no_data not in (None, form.no_data):
        raise BadInputError(
            f"--no-data {asked.no_data}: --data {data} was packed with {form.no_data or 'none'}: pack the files again"
        )
    return form if asked.moments is None else replace(form, mean=asked.moments[0], std=asked.moments[1])


def _keep_bytes(asked: Asked, notes: Notes) -> Form | None:
    """Return None, which means bytes of RGB; where a value is to mean missing data, say that in them none does."""
    if parse_no_data(asked.no_data) is not None:
        notes.remark(f"--no-data {asked.no_data} has no effect: its images are read as bytes of RGB")
    return None


def _read_some(images: Images, count: int, channels: int | None) -> Iterator[_Found]:
    """Yield the values of some images that are spread evenly; the unreadable are passed over."""
    some = take_evenly(images, count)
    for index in range(len(some)):
        with suppress(BadInputError):
            yield _Found(some.name(index), some.read_values(index, channels))


def _count_deep(images: Images, notes: Notes) -> float:
    """Return the share of some images that have more than bytes of colours."""
    some, deep, seen, pages = take_evenly(images, LOOKED_AT), 0, 0, 1
    for index in range(len(some)):
        with suppress(BadInputError):
            content = some.encoded(index)
            if content is not None:
                seen += 1
                found = is_deep(content, some.name(index))
                deep += found
                if not found and is_deep_colour(content):
                    notes.remark(f"its colours of 16 bits are read as 8: for all 16, {EXTRA}")
                pages = max(pages, 1 if found else count_pages(content))
    if pages > 1:
        do = "save each page, or all as one RGB image" if pages == 3 else f"--channels {pages} reads all as channels"
        notes.remark(f"its TIFFs have up to {pages} pages, and only the first of each is read: {do}")
    return deep / max(seen, 1)


def _require_alike(found: Sequence[_Found], channels: int, depth: str, data: str) -> None:
    fitting = [own.name for own in found if len(own.values.array) == channels and own.values.depth == depth]
    for own in found:
        if len(own.values.array) != channels or own.values.depth != depth:
            kind = describe_kind(len(own.values.array), own.values.depth)
            first = f", as {fitting[0]} is" if fitting else ", as --channels or --bands says"
            raise BadInputError(
                f"--data {data}: {own.name} is {kind}, expected {describe_kind(channels, depth)}{first}: leave it out "
                f"with --exclude, or bring all images to one form"
            )


def _as_number(tag: str) -> str:
    """Return what a file's tag says in the form of `--no-data`, to the last digit."""
    try:
        number = float(tag.replace(",", "."))
    except ValueError:
        return "nan"
    return str(int(number)) if number.is_integer() and abs(number) < 1 << 53 else repr(number)


def _measure(images: Images, channels: int, no_data: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation of each channel over some images, without what is missing."""
    count, total, square = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    reasons, offset = list[BadInputError](), None
    for own in _read_some(images, MEASURED, channels):
        try:
            pixels = mask_missing(own.values, no_data, own.name).reshape(len(own.values.array), -1).astype(np.float64)
        except BadInputError as error:
            reasons.append(error)
            continue
        if len(pixels) != channels:
            continue
        if offset is None:  # keeps digits if the mean is much larger than the deviation
            offset = np.array([row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else 0.0 for row in pixels])
        there = ~np.isnan(pixels)
        centred = np.where(there, pixels - offset[:, None], 0)
        count += there.sum(1)
        total += centred.sum(1)
        square += (centred**2).sum(1)
    if offset is None or not count.all():
        raise reasons[0] if reasons else BadInputError("a channel has no value in any image that was looked at")
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    largest = np.maximum(np.abs(mean + offset), np.finfo(np.float32).tiny)
    std = np.where(std > FLAT * largest, std, 1.0)
    return tuple(float(np.float32(value)) for value in mean + offset), tuple(float(np.float32(value)) for value in std)


def _list(numbers: Sequence[float]) -> str:
    few = ", ".join(f"{number:.5g}" for number in numbers[:8])
    return few + (", ..." if len(numbers) > 8 else "")
