"""The batches of a run: how its images are seen."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from moco.commands.transfer import run as transfer
from moco.errors import BadInputError
from moco.transfer.batches import TrainingBatches
from moco.transfer.examples import open_examples
from moco.transfer.recipes import TASKS, transfer_config
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
