"""The splits that monitors, choices and final figures use: the test images take no part in a choice."""

from typing import Literal

import numpy as np

from moco.data.derived import Joined, Subset
from moco.data.images import Images, Split, hold
from moco.runtime.randomness import Integers, Stream, permute

Source = Literal["test", "val", "tenth"]
"""Where the queries come from: a split of their own, or a tenth of train that is left out of the bank."""

TRAINED: tuple[Split, ...] = ("train", "unlabeled")
"""What pre-training takes."""


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


def are_labelled(splits: dict[Split, Images]) -> bool:
    """Tell whether training images of at least two classes have labels; others may have none."""
    train = splits["train"]
    return train.labels is not None and len(train.classes) > 1


def images_to_whiten(splits: dict[Split, Images]) -> Images:
    """Give the images by whose statistics features are whitened: those with labels, or all where there are none.

    Neighbours among few labels are worse if the statistics are those of further images, too (docs/measurements.md).
    """
    return splits["train"] if are_labelled(splits) else training_images(splits)


def hold_training(splits: dict[Split, Images]) -> dict[Split, Images]:
    """Give the same splits, with small images of those that pre-training takes held in memory."""
    return {split: hold(images) if split in TRAINED else images for split, images in splits.items()}


def hold_out_tenth(count: int) -> tuple[Integers, Integers]:
    """Split the rows of a set into nine tenths and a held-out tenth, a pure function of their number."""
    order = permute(range(count), count, seed=0, stream=Stream.SPLIT, epoch=0)
    held_out = max(1, count // 10)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
