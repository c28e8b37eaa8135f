"""The settings of `moco explore`: a field is a flag, its docstring the flag's help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class ExploreConfig:
    """A local page to look into an encoder: a map of the images, and the neighbours of any image."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """A run folder, or two to be compared."""
    data: str | None = None
    """Images, as for pretrain, with labels or without; by default those of the (first) run."""
    split: Literal["train", "val", "test"] | None = None
    """Which images; by default train."""
    images: int = 50_000
    """Images on the map, at most, spread evenly over the split."""
    map_seconds: float = 300.0
    """Time that a map may take, about. It is kept in the run folder."""
    clusters: int = 20
    """Groups of similar images (k-means), to colour the map by."""
    port: int = 8765
    """Port that the page is served at, on this machine only (0: any free one). From another machine, forward it:
    ssh -L 8765:127.0.0.1:8765 HOST."""
    static: Path | None = None
    """Write one self-contained HTML page of at most 3,000 of the images here, and serve nothing."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to encode the images."""
    batch_size: int = 256
    """Images encoded at a time."""
    workers: int | None = None
    """Processes that load images; by default none for small images, which are held in memory, else one per core."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""
