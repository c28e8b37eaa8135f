"""The settings of `moco study`: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from moco.data.config import Excluded
from moco.runtime.fields import Count, Device, JsonOutput, Minutes, Precision, Repetitions, Threads


@dataclass(frozen=True)
class StudyConfig:
    """Re-run a table or figure of the papers, or a study of your own, with everything else held equal."""

    name: tyro.conf.Positional[str]
    """mechanisms, momentum, shuffling-bn, temperature, v2, simclr, cost, supervised, hard-negatives; or a .toml or
    .json file with a study of your own (docs/studies.md)."""
    data: str
    """Images with labels, as for pretrain: the arms are compared by kNN accuracy."""
    out: Path
    """Folder of the study: cells/ (ordinary runs), results/, study.json, study.csv, study.html. A study that is already
    there goes on."""
    images: Count | None = None
    """Images that each cell trains on, counting repetitions; by default one pass over the set."""
    minutes: Minutes | None = None
    """Minutes that a cell trains for, on average over the arms, instead of --images; a short trial measures how many
    images that is."""
    seeds: Repetitions = 3
    """Repetitions of each arm, with seeds 0, 1, ..."""
    recipe: str = "quick"
    """Recipe that the arms depart from, unless the study names another."""
    plan: bool = False
    """Only print the runs that would be made, with an estimate of the time."""
    commands: bool = False
    """Only print one line of shell for each cell, for example for a job array. The same study then collects them."""
    exclude: Excluded = ()
    precision: Precision = "fp32"
    device: Device = "auto"
    threads: Threads = None
    json: JsonOutput = False
