"""Which images a figure is of, and whether the encoder was trained on them."""

from typing import Any

from moco.data.fingerprint import measure_known_share, read_fingerprint
from moco.data.splits import Source
from moco.errors import BadInputError
from moco.evaluation.config import RANDOM
from moco.evaluation.session import Labelled
from moco.interop.checkpoints import find_run

SPLITS: dict[Source, tuple[str, str]] = {
    "test": ("train", "test"), "val": ("train", "val"), "tenth": ("nine tenths of train", "a tenth of train"),
}  # fmt: skip
"""What is learned from, and what the figure is of."""
WORDS: dict[Source, str] = {"test": "the test split", "val": "the validation split", "tenth": "a tenth of train"}


def describe_origin(weights: str, images: Labelled, train: str, test: str) -> dict[str, Any]:
    """Say for a result which images it is of; `train` and `test` are what the result calls them.

    `splits` names them, `trained_on` has the percentage of each that the run of these weights trained on (None where
    that is not known), and `measured_on` says both for people.
    """
    names, shares = SPLITS[images.source], measure_trained_on(weights, images)
    return {
        "splits": dict(zip((train, test), names, strict=True)),
        "trained_on": dict(zip((train, test), shares, strict=True)),
        "measured_on": describe_images(images.source, None if weights == RANDOM else shares[1]),
    }


def describe_images(source: Source, share: float | None) -> str:
    """Say where images come from and, where it is known, which percentage of them was trained on."""
    if share is None:
        return WORDS[source]
    if share == 0:
        return f"{WORDS[source]}, held out from training"
    return f"{WORDS[source]}, {'' if share == 100 else f'{share:g}% of '}which the encoder was trained on"


def measure_trained_on(weights: str, images: Labelled) -> tuple[float | None, float | None]:
    """Compute which percentages of the training and of the test images the run of these weights trained on.

    A run keeps marks of its images (`data.fingerprint`). An image that has the marks of one of them was trained on.
    That one was not can be said only where the run's images are those of this training split: under another folder they
    would have other names.
    """
    if weights == RANDOM:
        return 0.0, 0.0
    try:
        run = find_run(weights)
        known = None if run is None else read_fingerprint(run)
    except BadInputError:  # damaged
        known = None
    if known is None:
        return None, None
    tenth = images.source == "tenth"
    train, test = (
        measure_known_share(known, images.train, copies=True),
        measure_known_share(known, images.test, copies=tenth),
    )
    same = train == 100 and known.images == len(images.train) + (len(images.test) if tenth else 0)
    return train or (train if same else None), test or (test if same else None)
