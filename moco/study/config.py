"""The settings of `moco study`: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from moco.data.config import Excluded, MostPixels
from moco.runtime.fields import Count, D, Device, JsonOutput, Minutes, Precision, Range, Repetitions, Threads


@dataclass(frozen=True)
class StudyConfig:
    """Re-run a table or figure of the papers, or a study of your own, with everything else held equal."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")]
    """mechanisms, momentum, shuffling-bn, temperature, v2, simclr, cost, supervised, hard-negatives; sweep, with --flag
    and --values; or a .toml or .json file with a study of your own."""
    data: Annotated[str, D]
    """Images with labels, in any form that moco pretrain quick --help lists. kNN accuracy compares the arms."""
    out: Path
    """Folder of the study: cells/ (ordinary runs), results/, study.json, study.csv, study.html. An existing
    study continues."""
    images: Count | None = None
    """Images that each run trains on, with repetitions; by default one pass over the set."""
    minutes: Minutes | None = None
    """Minutes that each run trains for, on average over the arms, instead of --images; a short trial measures how many
    images that is."""
    budgets: tuple[Count, ...] = ()
    """Several numbers of images, instead of --images: each run trains on the largest, is evaluated at each, and keeps a
    constant learning rate, so that its beginning equals the shorter runs."""
    seeds: Repetitions = 3
    """Repetitions of each arm, with seeds 0, 1, ..."""
    resolve: Annotated[float, Range(above=0, most=100)] | None = None
    """Choose the number of seeds so that a difference of this many points between two arms is found with probability
    0.8, instead of --seeds."""
    skip_settled: bool = False
    """Train no further seeds of an arm once every claim about it is settled. Intervals are then wider, so that all
    tests together are wrong in at most 5%."""
    flag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """sweep: a flag of moco pretrain to vary; its --values follow it."""
    values: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """sweep: the values of the --flag before it."""
    halving: bool = False
    """sweep: train all arms on a part of the images first, then only the better half with twice as many, down to two
    arms."""
    recipe: str = "quick"
    """Recipe that the arms start from, unless the study names another."""
    plan: bool = False
    """Only print the runs that would be made, with an estimate of the time."""
    commands: bool = False
    """Only print one line of shell for each run, for example for a job array. The same command without --commands
    then collects the results."""
    exclude: Excluded = ()
    most_pixels: MostPixels = None
    precision: Precision = "fp32"
    device: Device = "auto"
    threads: Threads = None
    json: JsonOutput = False
