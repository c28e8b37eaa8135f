"""A run keeps marks of its images and does not go on with others: names, sizes or checksums, times of change.

Three 32-bit numbers for each image, in order, in RUN/data.safetensors. They notice mistakes, not intent: whoever wants
to can make a file of the same size and time.
"""

import hashlib
import os
import warnings
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from moco.data.images import Images
from moco.errors import BadInputError, one_line
from moco.runtime.checkpoint import load_tensors, save_tensors
from moco.runtime.phases import say_if_slow
from moco.runtime.randomness import Words

FILE = "data.safetensors"
MOST_ROWS = 1 << 20
"""A larger set has one row for several images: all of their names, and the first one's content."""
LOOKED_AT = 10_000
"""Images that are looked up in another set's fingerprint, at most, spread evenly."""
SAMPLED = 16
"""Files whose content is digested too where features are kept, spread evenly."""
PIXEL_BUDGET = 2 << 30
"""Bytes of an array that are looked at, at most."""


@dataclass(frozen=True)
class Fingerprint:
    """The marks of a whole set, in order: a row of 32-bit numbers for each `block` images."""

    kind: str
    images: int
    block: int
    names: Words
    """The CRC-32 of the names."""
    contents: Words
    """The contents of `Marks`."""
    times: Words
    """The times of `Marks`."""


class Source(NamedTuple):
    """What a run reads and has to find unchanged when it goes on."""

    images: Images
    noun: str = "images"
    """What errors call them."""
    file: str = FILE
    """Where the run keeps their marks."""


def fingerprint(images: Images) -> Fingerprint:
    """Look at every image's name and size, or at its pixels in memory; 10^6 files take some seconds."""
    count, block = len(images), max(1, -(-len(images) // MOST_ROWS))
    first = images.stack(np.arange(min(1, count)))
    if first is not None:
        block = max(block, -(-first.nbytes * count // PIXEL_BUDGET))
    rows = range(0, count, block)
    with say_if_slow(f"looking up the sizes and dates of {count} images"):
        kind, contents, times = images.identify(np.array(rows, np.int64))
        return Fingerprint(kind, count, block, _checksum_names(images, rows), contents, times)


def describe_changes(was: Fingerprint, now: Fingerprint, images: Images, noun: str = "images") -> str:
    """Say what is not as it was; empty where all is. `images` are those of now, `noun` what to call them."""
    if (was.kind, was.block) != (now.kind, now.block):
        return f"{was.images} {noun} ({was.kind}) then, {now.images} ({now.kind}) now"
    least = min(len(was.names), len(now.names))
    differs = np.zeros(least, bool)
    for a, b in ((was.names, now.names), (was.contents, now.contents), (was.times, now.times)):
        differs |= a[:least] != b[:least]
    if not differs.any() and was.images == now.images:
        return ""
    added, removed = (int(np.isin(a.names, b.names, invert=True).sum()) for a, b in ((now, was), (was, now)))
    _, mine, theirs = np.intersect1d(now.names, was.names, return_indices=True)
    changed = (now.contents[mine] != was.contents[theirs]) | (now.times[mine] != was.times[theirs])
    counts = ((added, "added"), (removed, "removed"), (int(changed.sum()), "changed"))
    changes = ", ".join(f"{count} {what}" for count, what in counts if count) or "in another order"
    blocks = f" (blocks of {now.block})" if now.block > 1 else ""
    first = int(np.argmax(differs)) if differs.any() else least
    return f"{was.images} {noun} then, {now.images} now: {changes}{blocks}, {_describe_place(was, now, images, first)}"


def _describe_place(was: Fingerprint, now: Fingerprint, images: Images, first: int) -> str:
    """Name the place of the first difference."""
    if first >= len(now.names):
        return f"the first behind {one_line(images.name(now.images - 1))}"
    name = one_line(images.name(first * now.block))
    gone = first < len(was.names) and was.names[first] not in now.names and now.names[first] in was.names
    return f"the first missing before {name}" if gone else f"the first {name}"


def is_copy(was: Fingerprint, now: Fingerprint) -> bool:
    """Tell whether names and sizes are as before and every time is another: then the files were copied."""
    return (
        (was.kind, was.images, was.block) == (now.kind, now.images, now.block)
        and np.array_equal(was.names, now.names)
        and np.array_equal(was.contents, now.contents)
        and bool((was.times != now.times).all())
    )


def require_same_images(run: Path, images: Images, *, accept: bool, noun: str = "images", file: str = FILE) -> bool:
    """Raise BadInputError, saying what changed, where a run began with other images, unless that is accepted.

    Returns whether the images are the run's, or accepted: not where the run does not know its images.
    """
    was = None if accept else read_fingerprint(run, file)
    if was is None:
        return accept
    now = fingerprint(images)
    found = describe_changes(was, now, images, noun)
    if found and is_copy(was, now):
        warnings.warn(
            f"{run}: all {noun} have a new modification time, but the same names and sizes: treated as a copy",
            stacklevel=2,
        )
    elif found:
        raise BadInputError(
            f"{run}: the {noun} are not those that it began with ({found}): restore them, give another --out, or "
            f"continue anyway with --accept-changed-data"
        )
    return True


def measure_known_share(known: Fingerprint, images: Images, *, copies: bool) -> float | None:
    """Compute the percentage of images whose marks are in a fingerprint, by at most `LOOKED_AT` of them.

    With `copies` name and content must be the same, without them the time too: files of one size are many. None where
    that cannot be known: the set is of another kind, or the fingerprint has one row for several images.
    """
    rows = np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).astype(np.int64)
    kind, contents, times = images.identify(rows)
    if known.block > 1 or known.kind != kind:
        return None
    names = np.fromiter((zlib.crc32(os.fsencode(images.name(int(row)))) for row in rows), np.uint32)
    used = 2 if copies else 3
    own = zip(*(column.tolist() for column in (names, contents, times)[:used]), strict=True)
    theirs = zip(*(column.tolist() for column in (known.names, known.contents, known.times)[:used]), strict=True)
    kept = set(theirs)
    return round(100 * sum(marks in kept for marks in own) / len(rows), 1)


def keep_fingerprint(run: Path, images: Images, *, accept: bool, noun: str = "images", file: str = FILE) -> str:
    """Store what the images are where it is not known yet, or is no longer true; returns what changed, in words."""
    if (run / file).is_file() and not accept:
        return ""
    now, found = fingerprint(images), ""
    try:
        was = read_fingerprint(run, file)
        found = "" if was is None else describe_changes(was, now, images, noun)
    except BadInputError as error:
        found = str(error)
    columns = {"names": now.names, "contents": now.contents, "times": now.times}
    tensors = {name: torch.from_numpy(column.view(np.int32)) for name, column in columns.items()}
    save_tensors(run / file, tensors, {"kind": now.kind, "images": now.images, "block": now.block})
    return found


def read_fingerprint(run: Path, file: str = FILE) -> Fingerprint | None:
    """Read what a run knows of its images; None where it knows nothing.

    Raises BadInputError where that is damaged: it can be accepted anew.
    """
    path = run / file
    if not path.is_file():
        return None
    try:
        tensors, facts = load_tensors(path)
        columns = [tensors[name].numpy().view(np.uint32) for name in ("names", "contents", "times")]
        return Fingerprint(str(facts["kind"]), int(facts["images"]), int(facts["block"]), *columns)
    except (BadInputError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(
            f"{path}: the record of the run's images cannot be read ({error}): continue with --accept-changed-data"
        ) from error


def _checksum_names(images: Images, rows: range) -> Words:
    table = images.name_table
    if table is None:
        return np.fromiter((zlib.crc32(os.fsencode(images.name(row))) for row in rows), np.uint32)
    text, ends = np.ascontiguousarray(table.text).data, table.ends[[*rows, len(table)]].tolist()
    return np.fromiter((zlib.crc32(text[start:stop]) for start, stop in pairwise(ends)), np.uint32)


def digest_images(images: Images, *, times: bool = False) -> str:
    """Compute the SHA-256 of what tells these images, in their order, from others; with `times` also by these."""
    return digest_fingerprint(fingerprint(images), times=times)


def digest_fingerprint(own: Fingerprint, *, times: bool) -> str:
    """Compute the SHA-256 of a fingerprint; with `times` also of these."""
    sha = hashlib.sha256(f"{own.kind} {own.images} {own.block}".encode())
    sha.update(own.names.tobytes())
    sha.update(own.contents.tobytes())
    if times:
        sha.update(own.times.tobytes())
    return sha.hexdigest()


def digest_files(images: Images) -> str:
    """Compute the SHA-256 of a fingerprint, of its times, and of the content of `SAMPLED` files.

    Files of two folders may have the same names, sizes and times: those of an archive often have one time, and those of
    a format without compression one size. Copies of the same files have the same digest.
    """
    sha = hashlib.sha256(digest_images(images, times=True).encode())
    for row in np.linspace(0, len(images) - 1, min(len(images), SAMPLED)).astype(np.int64).tolist():
        try:
            content = images.encoded(row)
        except BadInputError:
            content = None
        sha.update(b"" if content is None else hashlib.sha256(content).digest())
    return sha.hexdigest()
