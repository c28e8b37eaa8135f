"""The pretexts by name, and a user's own from a Python file named on the command line."""

import dataclasses
import functools
import re
from contextlib import suppress

from moco.core.networks import OF_BYTES, example_input, reads_bytes
from moco.data.augment import AUGMENTATIONS, Augmentation
from moco.data.catalog import load
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.forms import AUTO, Form
from moco.data.image_pairs import Hidden, ImagePairs, match_names
from moco.data.images import Images, hold
from moco.data.pairconfig import PRETEXTS
from moco.data.pairs import PairBatches
from moco.data.pretext import EachItem, Pairing
from moco.data.series import Series, group_by_folder, read_series
from moco.data.settling import Asked
from moco.data.spans import draw_spans, read_document
from moco.data.splits import training_images
from moco.data.views import Look
from moco.errors import BadInputError, counted
from moco.pretraining.channels import with_form
from moco.pretraining.config import PretrainConfig
from moco.runtime import distributed
from moco.runtime.fields import require
from moco.runtime.owncode import OWN, OwnCode, load_own_code, name_own

OF_IMAGES = ("masked", "neighbours", "paired")
"""The pretexts that are made of views."""
PARTNER = "--partner"


def load_own_pretext(given: str) -> OwnCode | None:
    """Run the Python file of FILE:FUNCTION, as a command line names it, and take the function; None for a name.

    Raises BadInputError where there is no such file or function, the file fails, or what is given is none of both.
    """
    if given in PRETEXTS:
        return None
    if given.startswith(OWN):
        raise BadInputError(
            f"the run's pairs come from code of your own ({given}), which is not run because a file names it: give "
            f"--pretext FILE:FUNCTION again"
        )
    return load_own_code("--pretext", given, PRETEXTS, "(item, draw)")


def require_pretext(config: PretrainConfig) -> None:
    """Raise BadInputError where the pretext does not go with the network, or with other settings."""
    _require_partner(config)
    if config.pretext == "masked":
        _require_patches(Hidden(config.hidden, config.patch), require(config.view_size or config.image_size))
    if config.pretext == "views" and config.series is None and not reads_bytes(require(config.arch)):
        return
    if config.pretext in ("views", *OF_IMAGES) and reads_bytes(require(config.arch)):
        raise BadInputError(
            f"--arch {config.arch} takes documents, and --pretext {config.pretext} pairs images: give --pretext text"
        )
    if config.series is not None and config.pretext != "neighbours":
        raise BadInputError(f"--series is for --pretext neighbours, and it is {config.pretext}: leave one out")
    if config.pretext == "text" and not reads_bytes(require(config.arch)):
        raise BadInputError(f"--pretext text pairs spans of documents, and --arch {config.arch} takes images: give "
                            f"--arch {' or '.join(OF_BYTES)}")  # fmt: skip
    if config.dictionary == "memory-bank":
        raise BadInputError(
            f"--dictionary memory-bank makes no key of x_k, so --pretext {config.pretext} has no pairs: give another"
        )
    if config.teacher is not None:
        raise BadInputError(f"--teacher is for --pretext views, and it is {config.pretext}: leave one out")
    if config.blend and reads_bytes(require(config.arch)):
        raise BadInputError(f"--blend mixes views of images, and --arch {config.arch} takes documents: leave one out")


def _require_patches(hidden: Hidden, size: int) -> None:
    """Raise BadInputError where nothing of a view is left to see, or a share is to be hidden and comes to no patch."""
    count, of = hidden.count(size)
    if count == of or (hidden.share and not count):
        raise BadInputError(
            f"--hidden {hidden.share} hides {count} of {of} patches of --patch {hidden.patch} pixels in a view of "
            f"{size}: expected at least one hidden and one shown"
        )


def _require_partner(config: PretrainConfig) -> None:
    """Raise BadInputError where one of the settings for pairs of two sets lacks another, or does not go with it."""
    if (config.pretext == "paired") != (config.partner is not None):
        raise BadInputError(
            f"--pretext is {config.pretext}, and --partner {config.partner}: expected --pretext paired with "
            f"--partner D, the images that belong to those of --data"
        )
    if config.partner_encoder == "shared":
        return
    if config.partner is None:
        raise BadInputError(f"--partner-encoder own is for --pretext paired, and it is {config.pretext}: leave one out")
    if not config.symmetric:
        raise BadInputError(
            "--partner-encoder own trains two encoders, one by the loss of each direction: give --symmetric too"
        )
    if config.keep == "best":
        raise BadInputError(
            "--keep best chooses by the encoder of --data alone, and --partner-encoder own trains a second one that "
            "belongs to it: leave one out"
        )


def build_pairs(config: PretrainConfig, images: Images, own: OwnCode | None) -> PairBatches:
    """Build the batches of this rank by any pretext but `views`."""
    of_images = config.pretext in OF_IMAGES
    return PairBatches(
        images, build_pairing(config, images, own), config.batch_size, require(config.view_size or config.image_size),
        config.seed, distributed.rank(), distributed.world_size(), require(config.mean) if of_images else (),
        require(config.std) if of_images else (), config.device,
    )  # fmt: skip


def build_pairing(config: PretrainConfig, images: Images, own: OwnCode | None) -> Pairing:
    """Build what pairs the items of a batch."""
    size = require(config.view_size or config.image_size)
    if config.pretext in OF_IMAGES:
        look = _look(config)
        if config.pretext == "masked":
            return ImagePairs(look, hidden=Hidden(config.hidden, config.patch))
        if config.pretext == "neighbours":
            names = [images.name(row) for row in range(len(images))]
            groups = group_by_folder(names) if config.series is None else read_series(config.series, names)
            return ImagePairs(look, Series(groups, len(names), config.within))
        keys, partner = open_partner(config, images)
        rows = match_names(images, keys, require(config.partner))
        return ImagePairs(look, lambda index, epochs, seed: rows[index], keys, key_look=_look(partner))
    like = example_input(require(config.arch), size, len(require(config.mean)))[0]
    if config.pretext == "text":
        return EachItem(functools.partial(draw_spans, length=size), read_document, like, "--pretext text")
    if own is None or own.stored != config.pretext:
        raise BadInputError(f"--pretext {config.pretext}: its function is not given")
    read = read_document if reads_bytes(require(config.arch)) else read_image
    return EachItem(own.function, read, like, f"--pretext {name_own(own.stored)}")


def _look(config: PretrainConfig) -> Look:
    size, mean, std = require(config.view_size or config.image_size), require(config.mean), require(config.std)
    return Look(augmentation_of(config), size, mean, std, config.decode == "scaled")


def augmentation_of(config: PretrainConfig) -> Augmentation:
    """Return the augmentation by which a run makes its views."""
    named = AUGMENTATIONS[config.augment]
    return dataclasses.replace(named, flip_probability=config.flip, quarter_turns=config.quarter_turns)


def open_partner(config: PretrainConfig, images: Images) -> tuple[Images, PretrainConfig]:
    """Open the images that belong to those of `--data`, and say how their encoder sees them.

    They are read as those of `--data` are or, where they have an encoder of their own, as their files are.
    """
    if config.partner_encoder == "shared":
        return _open_held(require(config.partner), images.form, config.white_level), config
    mean, std = (config.mean, config.std) if images.form is None else (IMAGENET_MEAN, IMAGENET_STD)
    keys = _open_held(require(config.partner), Asked(AUTO))
    left_open = dataclasses.replace(config, channels=AUTO, bands=(), no_data=None, mean=mean, std=std, white_level=None)
    return keys, with_form(left_open, keys)


def forget_partners() -> None:
    """Open the images of `--partner` anew: since an earlier run of this process they may have changed."""
    _open_held.cache_clear()


@functools.cache
def _open_held(data: str, form: Form | Asked | None, white_level: int | None = None) -> Images:
    try:
        images = hold(training_images(load(data, white_level=white_level, form=form, flag=PARTNER)))
    except BadInputError as error:
        raise BadInputError(re.sub("^--data ", f"{PARTNER} ", str(error))) from error
    if not isinstance(form, Asked):
        _require_form(images, form, data)
        _require_bytes(images, form, white_level, data)
    return images


def _require_form(images: Images, form: Form | None, data: str) -> None:
    """Raise BadInputError where the images of `--partner` have other channels than those of `--data`."""
    try:
        images[0]
    except BadInputError as error:
        kind = _describe_form(_settle_form(data))
        if kind == _describe_form(form):
            return  # an image that is not readable, which is told, or replaced, where it is drawn
        raise BadInputError(
            f"--partner {data}: {kind}, and the images of --data are {_describe_form(form)}: give --partner-encoder "
            f"own --symmetric, for an encoder of each side, or bring all images to one form"
        ) from error


def _require_bytes(images: Images, form: Form | None, white_level: int | None, data: str) -> None:
    """Raise BadInputError where 16-bit images of `--partner` would be scaled to go with bytes of RGB, unasked."""
    if form is None and white_level is None and images.white_level is not None:
        raise BadInputError(
            f"--partner {data}: 16-bit images, and those of --data are bytes of RGB: give --partner-encoder own "
            f"--symmetric, for an encoder of each side at full depth, or --white-level {images.white_level} to scale "
            f"the partner's images to bytes"
        )


def _settle_form(data: str) -> Form | None:
    with suppress(BadInputError):
        return training_images(load(data, form=Asked(AUTO), flag=PARTNER)).form
    return None


def _describe_form(form: Form | None) -> str:
    return "bytes of RGB" if form is None else form.kind


def read_image(images: Images, index: int) -> object:
    """Read an item for a function of the user's own: an image, as bytes of RGB (3, H, W)."""
    return images[index]


def describe_pretext(config: PretrainConfig) -> str:
    """Describe for a run's log what is paired; empty for two views of an image."""
    if config.pretext.startswith(OWN):
        name, _, digest = config.pretext.removeprefix(OWN).partition("@sha256:")
        return f"\npairs come from code of your own, {name}, which runs with your permissions (SHA-256 {digest[:12]})"
    more = {
        "masked": f", {config.hidden:.0%} of the query's patches of {config.patch} pixels hidden",
        "neighbours": f", query and key at most {counted(config.within, 'frame')} apart"
        + ("" if config.series is None else f" in the series of {config.series}"),
        "paired": f" with {config.partner}"
        + (", each with its own encoder" if config.partner_encoder == "own" else ""),
        "text": ", two spans of each document",
    }
    return f"\npretext {config.pretext}{more[config.pretext]}" if config.pretext in more else ""
