"""What a run reads and has to find unchanged when it goes on: its images, those of --partner, the list of --series."""

import os

import torch

from moco.data.fingerprint import Source, keep_fingerprint, require_same_images
from moco.data.images import ArrayImages, Images
from moco.data.paths import PathTable
from moco.data.series import read_series_lines
from moco.pretraining.config import PretrainConfig
from moco.pretraining.pretexts import open_partner


def list_sources(config: PretrainConfig, images: Images) -> list[Source]:
    """List what a run reads, its images first; the lines of a list of series are names of images without pixels."""
    sources = [Source(images)]
    if config.partner is not None:
        keys = open_partner(config, images)[0]
        sources.append(Source(keys, "images of --partner", "data-partner.safetensors"))
    if config.series is not None:
        lines = PathTable(os.fsencode(line) for _, line in read_series_lines(config.series))
        pixels = torch.zeros(len(lines), 3, 0, 0, dtype=torch.uint8)
        sources.append(Source(ArrayImages(pixels, names=lines), "lines of --series", "data-series.safetensors"))
    return sources


def require_same_sources(config: PretrainConfig, images: Images) -> bool:
    """Raise BadInputError, saying what changed, where a run began with other sources, unless that is accepted.

    Returns whether all of them are the run's, or accepted: not where the run does not know one of them.
    """
    accept = config.accept_changed_data
    known = [
        require_same_images(config.out, source.images, accept=accept, noun=source.noun, file=source.file)
        for source in list_sources(config, images)
    ]
    return all(known)


def keep_sources(config: PretrainConfig, images: Images) -> str:
    """Store what the sources are where it is not known yet, or is no longer true; returns what changed, in words."""
    accept = config.accept_changed_data
    changes = (
        keep_fingerprint(config.out, source.images, accept=accept, noun=source.noun, file=source.file)
        for source in list_sources(config, images)
    )
    return "; ".join(change for change in changes if change)
