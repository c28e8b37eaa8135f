"""Keeps the features that evaluations compute, so that the next evaluation of the same images reads them."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.core.joined import JoinedBackbone, PlainParts
from moco.core.maps import count_numbers
from moco.data.fingerprint import digest_fingerprint, fingerprint
from moco.data.images import Images
from moco.errors import BadInputError
from moco.evaluation.features import ROWS_AT_A_TIME, Encoding, encode, encode_grids, outputs
from moco.evaluation.identity import computed_by, describe_features, digest_networks, place_of
from moco.evaluation.once import NAMED, file_of, read_kept, save_kept
from moco.evaluation.session import backbone_digest
from moco.runtime import distributed
from moco.runtime.checkpoint import Metadata
from moco.runtime.files import takes_files
from moco.runtime.room import limit_room, note_use
from moco.shapes import Features

LEAST_SECONDS = 2.0
"""Evaluations encode again what took them less."""
MOST_BYTES = 1 << 29
"""Evaluations encode again what takes more: a million features of 128 numbers, 104,857 of 1,280."""
EVALUATED = "evaluated-"
"""Prefix of the names of files with features of evaluations, which take less long to compute."""
MOST_KEPT = 4 << 30
"""Bytes that those may take in all."""


@torch.no_grad()
def encode_again(encoder: Encoder, images: Images, how: Encoding, title: str | None = None) -> Features:
    """Encode as `encode` does, but read the plain features (n, C) of images where an earlier evaluation kept them.

    They are kept where that pays: encoding took `LEAST_SECONDS`, and they take at most `MOST_BYTES`. Where they cannot
    be kept, nothing is lost but time.
    """
    computes = any(True for _ in encoder.backbone.parameters())  # raw pixels take much room and little time
    if how.stored == "fp16" or how.output == "head" or not computes:
        return encode(encoder, images, how, title=title)
    device, over_grid = next(encoder.parameters()).device, how.output == "backbone" and encoder.grid > 1
    (features,) = encode_networks(encoder, images, how, title, (encoder.grid if over_grid else 1,))
    width = encoder.width(how.output)
    finished = features if features.shape[1] == width else features.new_empty(len(features), width)
    for part, to in zip(torch.split(features, ROWS_AT_A_TIME), torch.split(finished, ROWS_AT_A_TIME), strict=True):
        z = part.to(device)
        if isinstance(encoder.backbone, JoinedBackbone):
            z = encoder.backbone.combine(torch.split(z, encoder.backbone.widths, 1))
        if how.output == "backbone":
            z = encoder.whitening(z)
        to.copy_(F.normalize(z) if how.unit else z)
    return finished


def encode_networks(
    encoder: Encoder, images: Images, how: Encoding, title: str | None = None, grids: Sequence[int] = (1,)
) -> list[Tensor]:
    """Encode images to averages over each grid (n, C k^2), or read what an earlier evaluation kept of them.

    A grid of one cell gives the plain features. Those of a joined encoder are what its networks give, one behind the
    other, before any whitening and scaling. What is missing is encoded at once. Where that takes maps, their averages
    over all other grids are kept, too, if there is room: the next evaluation may read them.
    """
    device, plain = next(encoder.parameters()).device, dataclasses.replace(how, output="plain", unit=False)
    joined = encoder.backbone if isinstance(encoder.backbone, JoinedBackbone) else None

    maps = tuple(grids) != (1,)

    def compute(missing: Sequence[int]) -> Sequence[Tensor]:
        if joined is not None:
            return [outputs(PlainParts(joined), sum(joined.widths), images, plain, title=title, device=device)]
        if not maps:
            return [encode(encoder, images, plain, title=title)]
        numbers = [count_numbers(encoder.num_features, (k,)) for k in missing]
        return torch.split(encode_grids(encoder, images, plain, missing, title), numbers, 1)

    what = _describe_networks(encoder, images, plain)
    about = {k: _over_grid(what, k) if maps else what for k in grids}
    found = {k: _read_of_evaluation(about[k]) for k in grids}
    missing = [k for k in grids if found[k] is None]
    if missing and maps:
        others = _list_other_grids(encoder, how.image_size, len(images), grids)
        about |= {k: _over_grid(what, k) for k in others}
        missing += others
    started = time.monotonic()
    new = dict(zip(missing, compute(missing), strict=True)) if missing else {}
    if time.monotonic() - started >= LEAST_SECONDS:
        for k, features in new.items():
            _keep_for_evaluations(about[k], features)
    return [new[k] if features is None else features for k, features in found.items()]


def _list_other_grids(encoder: Encoder, size: int, images: int, grids: Sequence[int]) -> list[int]:
    """List the grids over which the encoder's maps can be averaged beside these; none if all take too much room."""
    every = encoder.grids(size)
    numbers = images * count_numbers(encoder.num_features, every)
    return [k for k in every if k not in grids] if numbers * torch.float32.itemsize <= MOST_BYTES else []


def keep_networks(encoder: Encoder, images: Images, how: Encoding, features: Features) -> None:
    """Keep the plain features that `encode_networks` would compute, where they were computed in another way."""
    plain = dataclasses.replace(how, output="plain", unit=False)
    _keep_for_evaluations(_describe_networks(encoder, images, plain), features)


def _read_of_evaluation(about: Metadata | None) -> Features | None:
    """Read the features that depend on this, if they are kept."""
    if about is None:
        return None
    path = file_of(about, EVALUATED)
    kept = read_kept(path)
    if kept is None:
        return None
    if distributed.rank() == 0:
        note_use(path)
    return kept[0]["features"]


def _keep_for_evaluations(about: Metadata | None, features: Features) -> None:
    """Keep features under what they depend on, where there is room for them."""
    if about is None or distributed.rank() != 0:
        return
    path = file_of(about, EVALUATED)
    if features.nbytes <= MOST_BYTES and takes_files(path.parent):
        with contextlib.suppress(BadInputError):
            save_kept(path, {"features": features.contiguous()}, about)
        limit_room(path.parent.glob(f"{EVALUATED}{NAMED}*"), MOST_KEPT)


def _over_grid(about: Metadata | None, grid: int) -> Metadata | None:
    """Say the same of averages of maps over a grid; over one of a single cell they differ from features by rounding."""
    return None if about is None else about | {"grid": grid}


def _describe_networks(encoder: Encoder, images: Images, plain: Encoding) -> Metadata | None:
    """Say everything that plain features depend on; None where a change of an image would not be seen."""
    marks = fingerprint(images)
    if marks.block > 1:  # an image has no marks of its own
        return None
    about = describe_features("evaluated", encoder, digest_fingerprint(marks, times=True), images, plain)
    about |= {"root": place_of(images), "computed by": computed_by(next(encoder.parameters()).device)}
    if isinstance(encoder.backbone, JoinedBackbone):  # by whatever they are whitened
        return about | {"weights": digest_networks(encoder.plan.parts, encoder.backbone), "networks": True}
    return about | {"weights": backbone_digest(encoder, plain=True)}
