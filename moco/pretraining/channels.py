"""Settles the channels of a run's images, from its settings and from the opened images."""

import dataclasses

from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.forms import AUTO, RGB, Form, parse_channels
from moco.data.images import Images
from moco.data.settling import Asked
from moco.errors import BadInputError
from moco.interop.checkpoints import Weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import RECIPES

OF_PHOTOGRAPHS = (
    (IMAGENET_MEAN, IMAGENET_STD),
    *((recipe.values["mean"], recipe.values["std"]) for recipe in RECIPES.values() if "mean" in recipe.values),
)
"""Mean and deviation of RGB that settings have without being asked: other images are measured."""


def asked_of(config: PretrainConfig, weights: Weights | None = None) -> Asked | Form:
    """Say what a config asks of its images; where it leaves that open, weights to begin with or of a teacher decide.

    Weights of photographs decide nothing, for their first layer is adapted to other channels; a teacher's must fit.
    """
    if weights is not None and weights.form is not None and config.channels == AUTO and not config.bands:
        return weights.form
    taught = config.teacher is not None and config.channels == AUTO and not config.bands
    known = None
    if config.mean is not None and config.std is not None and (config.mean, config.std) not in OF_PHOTOGRAPHS:
        known = (config.mean, config.std) if len(config.mean) == parse_channels(config.channels) else None
    return Asked(RGB if taught else config.channels, config.bands, config.no_data, known)


def with_form(config: PretrainConfig, images: Images) -> PretrainConfig:
    """Settle what follows from the images' form. Raises BadInputError where a config does not fit it."""
    form = images.form
    if form is None:
        if config.bands or parse_channels(config.channels) not in (None, 3):
            raise BadInputError(f"--channels {config.channels}: the images are bytes of RGB: leave it out")
        for name in ("mean", "std"):
            values = getattr(config, name)
            if values is not None and (len(values) != 3 or (name == "mean" and not all(0 <= v <= 1 for v in values))):
                raise BadInputError(
                    f"--{name} {' '.join(map(str, values))}: expected three numbers in [0, 1], for the images are RGB"
                )
        return dataclasses.replace(config, channels=RGB)
    return dataclasses.replace(
        config, channels=str(form.channels), bands=form.bands, no_data=form.no_data, mean=form.mean, std=form.std,
        white_level=None,
    )  # fmt: skip


def describe_form(form: Form | None) -> str:
    """Say what is different with images that are no RGB, for a run's first lines."""
    if form is None:
        return ""
    return (
        f"\nimages of {form.kind}: views change brightness, contrast and noise of each channel, for saturation, hue "
        f"and grey are defined for RGB only"
    )
