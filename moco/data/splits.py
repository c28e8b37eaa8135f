"""The splits that monitors, choices and final figures use: the test images take no part in a choice."""

from typing import Literal

import numpy as np

from moco.data.derived import Joined, Subset
from moco.data.images import Images, Split
from moco.runtime.randomness import Integers, Stream, permute

Source = Literal["test", "val", "tenth"]
"""Where the queries come from: a split of their own, or a tenth of train that is left out of the bank."""


def monitor_source(splits: dict[Split, Images]) -> Source:
    """Say where the queries of `monitor_split` come from."""
    return "val" if "val" in splits else "tenth"


def final_source(splits: dict[Split, Images]) -> Source:
    """Say where the queries of `final_split` come from."""
    return "test" if "test" in splits else monitor_source(splits)


def monitor_split(splits: dict[Split, Images]) -> tuple[Images, Images]:
    """Give what a monitor or a choice may use, as (bank, queries): validation against train, else a tenth of train.

    The test split takes no part. Pre-training takes all of train: that tenth is left out of the bank only.
    """
    train = splits["train"]
    if "val" in splits:
        return train, splits["val"]
    rest, held_out = hold_out_tenth(len(train))
    return Subset(train, rest), Subset(train, held_out)


def final_split(splits: dict[Split, Images]) -> tuple[Images, Images]:
    """Give what a final figure uses, as (bank, queries): test against train, else validation, else as the monitor."""
    if "test" in splits:
        return splits["train"], splits["test"]
    return monitor_split(splits)


def training_images(splits: dict[Split, Images]) -> Images:
    """Give what pre-training takes: all of train and, behind it, all that is unlabelled; it needs no labels."""
    if "unlabeled" not in splits:
        return splits["train"]
    return Joined((splits["train"], splits["unlabeled"]), ("", "unlabeled/"))


def hold_out_tenth(count: int) -> tuple[Integers, Integers]:
    """Split the rows of a set into nine tenths and a held-out tenth, a pure function of their number."""
    order = permute(range(count), count, seed=0, stream=Stream.SPLIT, epoch=0)
    held_out = max(1, count // 10)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
