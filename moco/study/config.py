"""The settings of `moco study`: a field is a flag, its docstring the flag's help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class StudyConfig:
    """Re-run a table or figure of the papers, or a study of your own, with everything else held equal."""

    name: tyro.conf.Positional[str]
    """mechanisms, momentum, shuffling-bn, temperature, v2, simclr, cost, supervised, hard-negatives; or a .toml or
    .json file with a study of your own (docs/studies.md)."""
    data: str
    """Images, as for pretrain; labelled, since the arms are compared by kNN accuracy."""
    out: Path
    """Folder of the study: cells/ (ordinary runs), results/, study.json, study.csv, study.html. A study that is already
    there goes on."""
    images: int | None = None
    """Images that each cell trains on, those seen several times counted each time; by default one pass over the set."""
    minutes: float | None = None
    """Instead of --images: as many as a cell trains on in this time, on average over the arms, by a short trial."""
    seeds: int = 3
    """Repetitions of each arm, of seeds 0, 1, ..."""
    recipe: str = "quick"
    """The recipe that the arms depart from, where the study does not say another."""
    plan: bool = False
    """Only print what would be run, with the time that it is estimated to take."""
    commands: bool = False
    """Only print a line of shell for each cell, say for a job array; the same study then only collects."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of convolutions and matrix products."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: int | None = None
    """Threads inside an operation; by default all cores."""
    json: bool = False
    """End with one JSON object on standard output."""
