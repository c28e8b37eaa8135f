"""Encodes images by a frozen teacher; its features are the keys of a student (SEED)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.pair import KeySource, Teacher
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, RandomViews
from moco.evaluation.once import encode_once, recall
from moco.evaluation.session import backbone_digest, place_weights, say, say_notes
from moco.interop.checkpoints import Weights, load_weights
from moco.interop.metadata import describe_input
from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.shapes import Features, Index, Inputs, Views

CENTRED_BY = 4096
"""Number of images for the mean feature that centres keys encoded at each step."""


def load_teacher(
    name: str, images: Images, student: Encoding, device: str, *, size: int | None, cached: bool,
    view_size: int | None = None, crops: Sequence[RandomViews] = (),
    began_with: Callable[[], str | None] = lambda: None,
) -> Teacher:  # fmt: skip
    """Load a teacher by its name, any W; encode every image once where its keys are to be cached.

    Its features are centred by their mean over the images and scaled to unit length. `size` is the side in pixels at
    which it encodes whole images, by default its own; if keys are not cached, it encodes the student's views, whose
    side is `view_size`, by default that of its images. `student` says how the student's views are normalised, and the
    precision and number of loading processes. It encodes these `crops` of each image, too: the cached keys of an epoch
    are those of the whole images or of one crop of each, in turn. Features are kept in $MOCO_DATA/features, under a
    digest of weights, images and size. Where the weights are gone and these are kept, they are enough for a run that
    `began_with` weights of this digest. Raises BadInputError where the weights cannot be had or give features that are
    no numbers, or where the file cannot be written.
    """
    gone: BadInputError | None = None
    try:
        weights = place_weights(load_weights(name, "--teacher"), device)
    except BadInputError as error:
        gone = error
    if distributed.on_any_rank(gone is not None)[0]:
        sha256 = distributed.from_first(began_with) if cached else None
        kept = [] if sha256 is None else [recall(sha256, images, _plain(student), size, of) for of in (None, *crops)]
        if sha256 is None or any(one is None for one in kept):
            raise gone or BadInputError(f"--teacher {name}: another process cannot read it: put it there, too")
        say(f"--teacher {name}: cannot be read, and is not needed: its features are kept")
        return _answer([one for one in kept if one is not None], len(images), sha256, device)
    say_notes(weights)
    other = "bytes of RGB" if images.form is None else images.form.kind
    own = describe_input(weights.encoder.plan, weights.form)
    if own != other:
        raise BadInputError(f"--teacher {name}: takes {own}, and the images are {other}: give another teacher")
    weights.encoder.eval().requires_grad_(False)
    size = size or weights.encoder.plan.image_size
    weights.encoder.require_size(size, "--teacher-size")
    how = dataclasses.replace(_plain(student), image_size=size, mean=weights.mean, std=weights.std)
    try:
        if not cached:
            weights.encoder.require_size(view_size or student.image_size, "--view-size")
        some = images if cached else take_evenly(images, CENTRED_BY)
        features = encode_once(weights, some, how, title=f"teacher: encoding {len(some)} images")
        of_crops = [
            encode_once(weights, images, how, f"teacher: encoding crop {number} of {len(crops)} of each image", crop)
            for number, crop in enumerate(crops, 1)
        ]
    except BadInputError as error:
        raise BadInputError(f"--teacher {name}: {error}") from error
    if not cached:
        live = encode_views(weights, features.mean(0).to(device), student)
        return Teacher(weights.encoder.num_features, live, digest=backbone_digest(weights.encoder))
    return _answer([features, *of_crops], len(images), backbone_digest(weights.encoder), device)


def _plain(student: Encoding) -> Encoding:
    """How a teacher encodes."""
    return dataclasses.replace(student, output="plain", unit=False)


def _answer(features: Sequence[Features], images: int, sha256: str, device: str) -> Teacher:
    """Make the teacher that answers by cached keys: features (n, C) of the whole images, then those of each crop."""
    cached_keys = F.normalize(torch.cat(list(features)) - features[0].mean(0)).to(device)

    def keys(_: Inputs | None, index: Index, epoch: int) -> Features:
        return cached_keys[epoch % len(features) * images + index]

    return Teacher(cached_keys.shape[1], keys, cached_keys, sha256)


def encode_views(weights: Weights, centre: Tensor, student: Encoding) -> KeySource:
    """Make keys of the views of each step, which are normalised for the student."""

    @functools.cache  # a host that sends numbers to a GPU waits for it
    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=centre.device).view(1, -1, 1, 1)

    @torch.no_grad()
    def keys(x_k: Views | None, index: Index, epoch: int) -> Features:
        assert x_k is not None
        pixels = x_k * column(tuple(student.std)) + column(tuple(student.mean))  # in [0, 1]
        x = (pixels - column(tuple(weights.mean))) / column(tuple(weights.std))
        with autocast(student.precision, x_k.device.type):
            h = weights.encoder.backbone(x)
        return F.normalize(h.float() - centre)

    return keys
