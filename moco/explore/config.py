"""The settings of `moco explore`: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from moco.data.config import Excluded, MostPixels
from moco.evaluation.config import EncodedAtOnce
from moco.runtime.fields import RUNS, D, Device, JsonOutput, Range, Seconds, ShownChannels, Threads, Workers

FEWEST_IMAGES = 2
"""Fewest images on a map."""


@dataclass(frozen=True)
class ExploreConfig:
    """Serve a local page with a map of the images and the neighbours of any image."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], RUNS]
    """A run folder, or two to compare."""
    data: Annotated[str | None, D] = None
    """Images, with labels or without (docs/data.md); by default those of the first run."""
    split: Literal["train", "val", "test", "unlabeled"] | None = None
    """Split to show; by default train."""
    images: Annotated[int, Range(FEWEST_IMAGES, 200_000)] = 50_000
    """Largest number of images on the map, spread evenly over the split."""
    map_seconds: Seconds = 300.0
    """Approximate time limit for computing a map, in seconds. The map is kept in the run folder."""
    clusters: Annotated[int, Range(1, 1000)] = 20
    """Number of clusters of similar images (k-means) to colour the map by."""
    port: Annotated[int, Range(0, 65535)] = 8765
    """Port of the page, which only this machine can reach (0: any free one). From another machine, forward it:
    ssh -L 8765:127.0.0.1:8765 HOST."""
    static: Path | None = None
    """Write one self-contained HTML page of at most 3,000 of the images to this file, and serve nothing."""
    show_channels: ShownChannels = ()
    exclude: Excluded = ()
    most_pixels: MostPixels = None
    device: Device = "auto"
    batch_size: EncodedAtOnce = 256
    workers: Workers = None
    threads: Threads = None
    json: JsonOutput = False
