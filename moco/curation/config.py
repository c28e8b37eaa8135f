"""The settings of the commands on a set itself: a field is a flag, and its docstring or its type says the help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from moco.data.config import Excluded, MostPixels, WhiteLevel
from moco.evaluation.config import (
    EncodedAtOnce,
    EncodedSide,
    EncoderOutput,
    LikeRun,
    NamedWeights,
    RandomArch,
    RandomStem,
)
from moco.runtime.fields import Device, JsonOutput, Positive, Precision, Range, Seed, Share, Threads, Workers

KeepRule = Literal["largest", "sharpest", "first"]
SelectionMethod = Literal["typical", "spread", "random"]

AnyImages = Annotated[
    str, arg(metavar="D", help="Images, with labels or without, in any form that moco pretrain quick --help lists.")
]
ChosenSplit = Annotated[Literal["all", "train", "val", "test", "unlabeled"], arg(help="Split to use.")]
ResultFolder = Annotated[
    Path | None, arg(help="Folder for lists, a table and a page with pictures; by default the command only prints.")
]
RandomBeside = Annotated[
    bool,
    FlagCreatePairsOff,
    arg(help="Skip the comparison with random weights of the same network.", help_behavior_hint=""),
]
RandomSeed = Annotated[Seed, arg(help="Seed of random weights and of all random choices.")]


@dataclass(frozen=True)
class DuplicatesConfig:
    """Find duplicate images: the same file, the same pixels, or nearly the same picture."""

    weights: NamedWeights
    data: AnyImages
    out: ResultFolder = None
    keep: KeepRule = "largest"
    """Which image of a group to keep: the largest (pixels, then bytes), the sharpest (variance of the Laplacian), or
    the first by its path."""
    threshold: Share | None = None
    """Minimum cosine similarity of near duplicates; by default calibrated on your images."""
    false_pairs: Positive = 1.0
    """Calibrate the threshold so that this many false pairs are expected in the whole set."""
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
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class OutliersConfig:
    """List unusual images, each with the reasons, and labels that are probably wrong."""

    weights: NamedWeights
    data: AnyImages
    out: ResultFolder = None
    top: Annotated[int, Range(1, 10**6)] = 50
    """Number of images, and of labels, to list."""
    k: Annotated[int, Range(1, 1000)] = 20
    """Number of neighbours: the farther the last of them, the higher an image's score; all vote on its label."""
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
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class SelectConfig:
    """Choose the images to label first."""

    weights: NamedWeights
    data: AnyImages
    out: ResultFolder = None
    n: Annotated[int, Range(1, 10**6)] = 100
    """Number of images to choose."""
    method: SelectionMethod = "typical"
    """typical: the most typical image of each of --n clusters, or several of each of 500 clusters (TypiClust); spread:
    each image as far as possible from those chosen before (k-centre); random."""
    labelled: Path | None = None
    """Text list of images that already have labels; they count as already chosen."""
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
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class SearchConfig:
    """Find the images most similar to a file, to an image of the set, or to several files together."""

    weights: NamedWeights
    data: AnyImages
    out: ResultFolder = None
    image: Path | None = None
    """Image file to search by; it need not be in --data."""
    index: Annotated[int, Range(0, 10**9)] | None = None
    """Number of an image of --data to search by: its row, from 0, in what moco embed writes for the same --split."""
    near: tuple[Path, ...] = ()
    """Image files to search by together, by the mean of their features."""
    k: Annotated[int, Range(1, 10**6)] = 10
    """Number of images to find."""
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
    most_pixels: MostPixels = None
    json: JsonOutput = False


@dataclass(frozen=True)
class GroupsConfig:
    """Divide the images into groups of similar ones, and show typical images of each."""

    weights: NamedWeights
    data: AnyImages
    out: ResultFolder = None
    k: str = "auto"
    """Number of groups; auto chooses the number from 2 to 50 with the largest
    silhouette (how clearly the groups are apart)."""
    representatives: Annotated[int, Range(1, 1000)] = 8
    """Number of typical images to show for each group."""
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
    most_pixels: MostPixels = None
    json: JsonOutput = False


ONE_OF: dict[type, tuple[str, ...]] = {SearchConfig: ("image", "index", "near")}
"""A command -> fields of which exactly one has to be given."""
CurationConfig = DuplicatesConfig | OutliersConfig | SelectConfig | SearchConfig | GroupsConfig
"""Any of these commands' settings; what they share has one name."""
