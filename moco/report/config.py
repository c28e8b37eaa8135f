"""The settings of the report: a field is a flag, its docstring the flag's help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class ReportConfig:
    """One HTML page on one or several runs, to look at offline and to send on; it holds thumbnails of the images."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; several are laid side by side."""
    out: Path | None = None
    """The page; by default report.html in the first run's folder."""
    data: str | None = None
    """Images for the views, neighbours and the map, as for pretrain. By default each run's own, where they are still
    there; else these parts are left out."""
    gallery: bool = True
    """Compute these parts where they are missing or of other weights; else only what is stored is shown."""
    map_images: int = 2000
    """Images in the map, at most 10,000; they are taken from the test split, else validation, else a tenth of train."""
    map_seconds: float = 60.0
    """Time that a map may take, about."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to encode the images."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""
