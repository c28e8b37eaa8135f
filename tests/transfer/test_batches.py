"""The batches of a run: which images, how often, and how they are seen."""

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.commands.transfer import run as transfer
from moco.data.images import PathTable
from moco.errors import BadInputError
from moco.runtime.randomness import Stream, permuted
from moco.transfer.batches import TrainingBatches
from moco.transfer.examples import open_examples
from moco.transfer.objects import ObjectTable
from moco.transfer.recipes import TASKS, transfer_config
from moco.transfer.sampling import Passes, build_passes, repeat_factors
from tests.transfer.scenes import write


@pytest.mark.parametrize("task", ["voc-dc5", "voc-semantic"])
def test_a_share_of_the_images_is_mirrored(tmp_path: Path, task: str) -> None:
    """None with --flip 0, all of them with 1; nothing else of what is drawn changes."""
    data = write(TASKS[task].layout, tmp_path / "data", 4, (96, 64))
    examples = open_examples(TASKS[task].layout, data, "train")

    def images(flip: float) -> list[torch.Tensor]:
        config = transfer_config(
            task, weights="random", data=str(data), out=tmp_path / "run", batch_size=4, train_sizes=(48, 64),
            crop_size=48, flip=flip,
        )  # fmt: skip
        batches = TrainingBatches(examples, config)
        return [image for step in range(4) for image in batches.at(step)[0]]

    plain, half, mirrored = images(0.0), images(0.5), images(1.0)
    assert all(torch.equal(one.flip(2), other) for one, other in zip(plain, mirrored, strict=True))
    turned = [torch.equal(one, other) for one, other in zip(half, mirrored, strict=True)]
    assert all(torch.equal(one, other) for one, other, turn in zip(half, plain, turned, strict=True) if not turn)
    assert 0 < sum(turned) < len(turned)


def test_a_box_that_only_touches_its_image_does_not_train(tmp_path: Path) -> None:
    """Cut at the edge it has no width, which torchvision's detectors refuse; the others stay."""
    data = write("coco", tmp_path / "data", 1, (96, 64))
    path = data / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    count = len(content["annotations"])
    for number, box in enumerate(([-1, 10, 1, 20], [96, 10, 1.5, 20], [20, 64, 30, 1])):
        content["annotations"].append({**content["annotations"][0], "id": 900 + number, "bbox": box})
    path.write_text(json.dumps(content))
    config = transfer_config(
        "coco-fpn", weights="random", data=str(data), out=tmp_path / "run", batch_size=2, train_sizes=(40, 64),
    )  # fmt: skip
    for objects in TrainingBatches(open_examples("coco", data, "train"), config).at(0)[1]:
        assert {name: len(values) for name, values in objects.items()} == {
            "boxes": count, "labels": count, "masks": count,
        }  # fmt: skip
        assert bool((objects["boxes"][:, 2:] > objects["boxes"][:, :2]).all())


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
    plain = [int(permuted(i, 6, seed=7, stream=Stream.ORDER, epoch=epoch)[0]) for epoch in (0, 1) for i in range(6)]
    assert [one.index for one in once] == plain


def test_an_image_that_comes_again_is_seen_otherwise(tmp_path: Path) -> None:
    """LVIS' recipe repeats images; two views of one image in a pass are not the same."""
    data = write("lvis", tmp_path / "data", 4, (96, 64))
    config = transfer_config(
        "lvis-fpn", weights="random", data=str(data), out=tmp_path / "run", batch_size=1, train_sizes=(32, 64),
    )  # fmt: skip
    assert config.repeat_threshold == 0.001
    examples = open_examples("lvis", data, "train")
    batches = TrainingBatches(examples, dataclasses.replace(config, repeat_threshold=1.0))
    factors = batches.passes.factors
    assert factors.max() > 1
    places = [place for place in range(16) if batches.passes.at(place).index == int(factors.argmax())]
    first, second = next(
        (batches.at(a)[0][0], batches.at(b)[0][0])
        for a, b in pairwise(places)
        if batches.passes.at(a).epoch == batches.passes.at(b).epoch
    )
    assert first.shape != second.shape or not torch.equal(first, second)


def test_label_maps_have_no_rare_classes(tmp_path: Path) -> None:
    """The flags are refused before anything is written."""
    data = write("voc-semantic", tmp_path / "data", 2, (96, 64))
    config = transfer_config(
        "voc-semantic", weights="random", arch="resnet18-w4", data=str(data), out=tmp_path / "run", device="cpu",
        repeat_threshold=0.1, threads=1,
    )  # fmt: skip
    with pytest.raises(BadInputError, match="--repeat-threshold"):
        transfer(config)
    assert not (tmp_path / "run").exists()
