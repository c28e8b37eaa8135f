"""The test images take no part in a choice, and what is held out is the same every time."""

import numpy as np
import pytest
import torch

from moco.data.derived import Subset
from moco.data.images import ArrayImages, Images, Split
from moco.data.splits import (
    final_source,
    final_split,
    hold_out_tenth,
    monitor_source,
    monitor_split,
    training_images,
)
from tests.data.test_catalog import labels


def numbered(first: int, count: int) -> ArrayImages:
    """Images that differ, with labels."""
    pixels = torch.arange(first, first + count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ArrayImages(pixels, np.arange(first, first + count), ("a", "b"))


TRAIN, VAL, TEST = numbered(0, 95), numbered(100, 5), numbered(200, 7)


def test_monitor_uses_validation() -> None:
    """And never test."""
    assert monitor_split({"train": TRAIN, "val": VAL, "test": TEST}) == (TRAIN, VAL)
    assert monitor_split({"train": TRAIN, "val": VAL}) == (TRAIN, VAL)


@pytest.mark.parametrize("splits", [{"train": TRAIN}, {"train": TRAIN, "test": TEST}])
def test_without_validation_the_monitor_holds_out_a_tenth_of_train(splits: dict[Split, Images]) -> None:
    """Bank and queries share no image, are all of train together, and are the same every time."""
    bank, queries = monitor_split(splits)
    assert isinstance(bank, Subset)
    assert isinstance(queries, Subset)
    assert (len(bank), len(queries)) == (86, 9)
    assert sorted([*bank.rows, *queries.rows]) == list(range(95))
    assert labels(queries) == list(queries.rows)
    assert [int(queries[i][0, 0, 0]) for i in range(9)] == list(queries.rows)
    again = monitor_split(splits)
    assert [labels(part) for part in again] == [labels(bank), labels(queries)]
    assert not np.array_equal(queries.rows, np.arange(9)), "the tenth is a random one"


def test_two_images_are_enough_to_hold_one_out() -> None:
    """A tenth is at least one image."""
    bank, queries = monitor_split({"train": numbered(0, 2)})
    assert sorted([*labels(bank), *labels(queries)]) == [0, 1]
    assert len(queries) == 1


def test_final_figures_use_test() -> None:
    """Else validation, else the tenth that the monitor uses."""
    assert final_split({"train": TRAIN, "val": VAL, "test": TEST}) == (TRAIN, TEST)
    assert final_split({"train": TRAIN, "val": VAL}) == (TRAIN, VAL)
    held_out = [labels(part) for part in final_split({"train": TRAIN})]
    assert held_out == [labels(part) for part in monitor_split({"train": TRAIN})]


@pytest.mark.parametrize(
    ("names", "monitor", "final"),
    [
        (("train",), "tenth", "tenth"),
        (("train", "val"), "val", "val"),
        (("train", "test"), "tenth", "test"),
        (("train", "val", "test"), "val", "test"),
    ],
)
def test_where_the_queries_come_from(names: tuple[Split, ...], monitor: str, final: str) -> None:
    """As the two functions above take them."""
    every: dict[Split, Images] = {"train": TRAIN, "val": VAL, "test": TEST}
    splits = {name: every[name] for name in names}
    assert (monitor_source(splits), final_source(splits)) == (monitor, final)
    for source, (_, queries) in ((monitor, monitor_split(splits)), (final, final_split(splits))):
        assert (queries is VAL) == (source == "val")
        assert (queries is TEST) == (source == "test")


@pytest.mark.parametrize("count", [2, 9, 10, 19, 20, 95])
def test_a_tenth_is_held_out_of_any_number(count: int) -> None:
    """At least one row, rounded down; both parts are sorted and all of the rows together."""
    rest, held_out = hold_out_tenth(count)
    assert len(held_out) == max(1, count // 10)
    assert sorted([*rest, *held_out]) == list(range(count))
    assert rest.tolist() == sorted(rest)
    assert held_out.tolist() == sorted(held_out)


def test_pre_training_takes_what_is_unlabelled_too() -> None:
    """Behind all of train, without labels; in memory as long as both are."""
    joined = training_images({"train": TRAIN, "test": TEST, "unlabeled": VAL})
    assert training_images({"train": TRAIN, "test": TEST}) is TRAIN
    assert isinstance(joined, Images)
    assert (len(joined), joined.labels, joined.in_memory) == (100, None, True)
    rows = np.array([99, 0, 94, 95])
    pixels = joined.stack(rows)
    assert pixels is not None
    assert pixels[:, 0, 0, 0].tolist() == [104, 0, 94, 100]
    assert [int(joined[int(row)][0, 0, 0]) for row in rows] == [104, 0, 94, 100]
    assert joined.name(95) == f"unlabeled/{VAL.name(0)}"
    marks = joined.identify(rows)
    assert (marks.kind, len(marks.contents)) == ("ArrayImages", 4)
    assert marks.contents.tolist()[1:3] == TRAIN.identify(np.array([0, 94])).contents.tolist()
