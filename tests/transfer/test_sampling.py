"""Which images are seen, and how often: rare classes by LVIS' rule, any place asked for first."""

import math
from typing import Any

import numpy as np
import pytest

from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.runtime.randomness import Stream, permute
from moco.transfer.objects import ObjectTable
from moco.transfer.sampling import Passes, build_passes, repeat_factors


def table(labels: list[list[int]], classes: int = 4, **columns: Any) -> ObjectTable:
    """Images whose objects have these labels, with boxes of 4x4."""
    flat = [label for image in labels for label in image]
    count = len(flat)
    values: dict[str, Any] = {
        "boxes": np.tile([1.0, 1, 5, 5], (count, 1)), "iscrowd": np.zeros(count, bool),
        "ignore": np.zeros(count, bool), **columns,
    }  # fmt: skip
    return ObjectTable(
        rules="lvis", kind="instance", classes=tuple(f"class {i}" for i in range(classes)),
        paths=PathTable(b"%d.jpg" % i for i in range(len(labels))), image_ids=np.arange(len(labels)),
        sizes=np.full((len(labels), 2), 8), ends=np.cumsum([0, *map(len, labels)]), labels=np.array(flat, np.int64),
        area=np.full(count, 16.0), **values,
    )  # fmt: skip


def test_images_of_rare_classes_are_repeated_by_the_papers_rule() -> None:
    """r(I) = max_c max(1, sqrt(t / f(c))) in plain loops, with several objects of a class, and images without any."""
    rng, threshold = np.random.default_rng(0), 0.5
    chances = (0.9, 0.3, 0.1, 0.02)
    labels = [
        [c + 1 for c, chance in enumerate(chances) if rng.random() < chance for _ in range(int(rng.integers(1, 4)))]
        for _ in range(60)
    ]
    expected = []
    for image in labels:
        factor = 1.0
        for label in image:
            share = sum(label in other for other in labels) / len(labels)
            factor = max(factor, math.sqrt(threshold / share))
        expected.append(factor)
    assert max(expected) > 3
    assert repeat_factors(table(labels), threshold, skip_empty=False).tolist() == pytest.approx(expected)
    assert (repeat_factors(table(labels), 0.0, skip_empty=False) == 1).all()


def test_images_without_an_object_to_learn_from_are_left_out() -> None:
    """Empty ones, and those with a crowd, an ignored object or a box without width alone; f is of the others."""
    labels = [[1], [], [1], [2], [1], [1, 2]]
    boxes = np.tile([1.0, 1, 5, 5], (6, 1))
    boxes[3] = [2, 2, 2, 6]
    crowd, ignored = np.zeros(6, bool), np.zeros(6, bool)
    crowd[1] = ignored[2] = True
    found = table(labels, 2, boxes=boxes, iscrowd=crowd, ignore=ignored)
    assert repeat_factors(found, 0.0, skip_empty=True).tolist() == [1, 0, 0, 0, 0, 1]
    assert repeat_factors(found, 1.0, skip_empty=True).tolist() == pytest.approx([1, 0, 0, 0, 0, math.sqrt(2)])
    points = np.zeros((6, 3, 3))
    points[5, 1] = [2, 3, 1]
    with_points = table(labels, 2, keypoints=points)
    assert repeat_factors(with_points, 0.0, skip_empty=True).tolist() == [0, 0, 0, 0, 0, 1]
    with pytest.raises(BadInputError, match="no training image has an object"):
        build_passes(table([[], []]), 0.0, skip_empty=True, seed=0)


def test_a_pass_holds_each_image_as_often_as_its_factor_says() -> None:
    """In every pass the whole part of it or one more, in the mean of many the factor; the orders differ."""
    factors = np.array([1.0, 2.5, 0.0, 1.2, 3.0])
    passes = Passes(factors, seed=3)
    place, seen, orders = 0, np.zeros(5), set()
    for epoch in range(150):
        chosen = []
        while passes.at(place).epoch == epoch:
            chosen.append(passes.at(place))
            place += 1
        counts = np.bincount([one.index for one in chosen], minlength=5)
        assert ((counts == np.floor(factors)) | (counts == np.ceil(factors))).all()
        for index in range(5):
            own = sorted(one.occurrence for one in chosen if one.index == index)
            assert own == list(range(counts[index]))
        seen += counts
        orders.add(tuple(one.index for one in chosen))
    assert seen / 150 == pytest.approx(factors, abs=0.15)
    assert len(orders) > 120
    assert passes.epoch(0) == 0
    assert passes.epoch(place) == 150


def test_any_place_can_be_asked_for_first() -> None:
    """What comes at a place does not depend on what was asked before: a run that goes on sees the same images."""
    factors = np.array([1.0, 2.5, 0.0, 1.2, 3.0])
    whole = [Passes(factors, 7).at(place) for place in range(50)]
    used = Passes(factors, 7)
    assert [used.at(place) for place in reversed(range(50))] == whole[::-1]
    assert [Passes(factors, 8).at(place) for place in range(50)] != whole
    once = [Passes(np.ones(6), 7).at(place) for place in range(12)]
    plain = [int(permute(i, 6, seed=7, stream=Stream.ORDER, epoch=epoch)[0]) for epoch in (0, 1) for i in range(6)]
    assert [one.index for one in once] == plain
