"""The settings of the commands on a set itself: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from moco.data.config import Excluded, WhiteLevel
from moco.evaluation.config import (
    EncodedAtOnce,
    EncodedSide,
    EncoderOutput,
    LikeRun,
    NamedWeights,
    RandomArch,
    RandomStem,
)
from moco.runtime.fields import Device, JsonOutput, Positive, Precision, Seed, Share, Threads, Workers

KeepRule = Literal["largest", "sharpest", "first"]

AnyImages = Annotated[str, arg(help="Images, as for pretrain, with labels or without.")]
ChosenSplit = Annotated[Literal["all", "train", "val", "test", "unlabeled"], arg(help="Split to look at.")]
ResultFolder = Annotated[
    Path | None, arg(help="Folder to write lists, a table and a page with pictures to; by default results are printed.")
]
RandomBeside = Annotated[
    bool,
    FlagCreatePairsOff,
    arg(help="Do not compute the same with random weights of the same network.", help_behavior_hint=""),
]
RandomSeed = Annotated[Seed, arg(help="Seed of random weights and of everything that is drawn.")]


@dataclass(frozen=True)
class DuplicatesConfig:
    """Find images that are there twice: the same file, the same pixels, or nearly the same picture."""

    weights: NamedWeights
    data: AnyImages
    out: ResultFolder = None
    keep: KeepRule = "largest"
    """Which image of a group to keep: the largest (pixels, then bytes), the sharpest (variance of the Laplacian), or
    the first by its path."""
    threshold: Share | None = None
    """Cosine similarity from which two images are near duplicates; by default calibrated on your images."""
    false_pairs: Positive = 1.0
    """Pairs of different images that may be taken for duplicates, by which the threshold is calibrated."""
    split: ChosenSplit = "all"
    features: EncoderOutput = "backbone"
    baseline: RandomBeside = True
    like: LikeRun = None
    arch: RandomArch = None
    stem: RandomStem = "imagenet"
    image_size: EncodedSide = None
    batch_size: EncodedAtOnce = 256
    seed: RandomSeed = 0
    precision: Precision = "auto"
    device: Device = "auto"
    workers: Workers = None
    threads: Threads = None
    exclude: Excluded = ()
    white_level: WhiteLevel = None
    json: JsonOutput = False


CurationConfig = DuplicatesConfig
"""Any of these commands' settings; what they share has one name."""
