"""The batches of a run: which images, how often, and how they are seen."""

from pathlib import Path

import pytest
import torch

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
