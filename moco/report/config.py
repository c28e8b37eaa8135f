"""The settings of the report: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from moco.runtime.fields import RUNS, D, Device, JsonOutput, Range, Seconds, ShownChannels, Threads

MOST_POINTS = 10_000
"""Most images on a map."""


@dataclass(frozen=True)
class ReportConfig:
    """Write one HTML page about one or several runs, with thumbnails of the images, to view offline or to share."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], RUNS]
    """Run folders; several are shown side by side."""
    out: Path | None = None
    """File to write; by default report.html in the first run's folder."""
    data: Annotated[str | None, D] = None
    """Images for the views, the neighbours and the map; by default each run's own. Without images the
    page leaves these parts out."""
    gallery: bool = True
    """Compute views, neighbours and map if they are missing or belong to other weights. --no-gallery shows only what is
    stored."""
    show_channels: ShownChannels = ()
    map_images: Annotated[int, Range(1, MOST_POINTS)] = 2000
    """Images on the map, at most 10,000: of the test split, otherwise validation, otherwise a tenth of the training
    images."""
    map_seconds: Seconds = 60.0
    """Approximate time limit for computing a map, in seconds."""
    device: Device = "auto"
    threads: Threads = None
    json: JsonOutput = False
