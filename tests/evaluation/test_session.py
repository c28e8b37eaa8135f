"""What evaluations refuse before they begin, and what they warn of."""

import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.cli import main
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.images import ArrayImages
from moco.data.loader import ViewBatches
from moco.data.replacement import Damage
from moco.errors import BadInputError
from moco.evaluation import features
from moco.evaluation.config import KnnConfig
from moco.evaluation.features import Encoding, RandomViews, encode
from moco.evaluation.finetune import CROP_AND_FLIP
from moco.evaluation.session import load_labelled, session
from moco.evaluation.statefile import warn_of_damage

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}
HALVES = (0.5, 0.5, 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    """Makes a data set of images of these names."""

    def make(*names: str) -> str:
        for name in names:
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            PillowImage.new("RGB", (8, 8)).save(tmp_path / "d" / name)
        return str(tmp_path / "d")

    return make


def some() -> ArrayImages:
    """Four images, the second of which cannot be read."""
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    return ArrayImages(pixels, np.array([0, 0, 1, 1]), ("a", "b"), unreadable={1: "b.png: broken"})


def test_one_image_to_learn_from(folder: Callable[..., str]) -> None:
    """Of two, one is held out to test: nothing can be learned of classes."""
    with pytest.raises(BadInputError, match="1 image is left to learn from: expected 2 or more"):
        load_labelled(folder("a/1.png", "b/1.png"))


def test_a_class_without_an_image_to_learn_from(folder: Callable[..., str]) -> None:
    """Its test images are never right: a warning beside the figure says so."""
    names = [f"{letter}/1.png" for letter in "abcdefghijkl"]
    with pytest.warns(UserWarning, match="1 of 12 classes have test images and none to learn from"):
        load_labelled(folder(*names))


def test_classes_that_all_have_images(folder: Callable[..., str]) -> None:
    """A test split may lack one of train's: no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_labelled(folder("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png"))
    assert found.test.labels is not None
    assert found.test.labels.tolist() == [2]


def test_a_result_that_could_not_be_kept(tiny_run: Path, tmp_path: Path) -> None:
    """Is refused before it is computed, with another way."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "evaluations").write_text("in the way", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"cannot be written.*only printed"), session(KnnConfig(str(run), "digits")):
        pass
    with session(KnnConfig(str(run / "encoder.safetensors"), "digits", **CPU)) as subject:
        assert subject.how.image_size == 16


def test_an_unreadable_image_in_memory_is_not_black() -> None:
    """Random views of it are refused as the whole image is."""
    encoder = Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=8))
    with pytest.raises(BadInputError, match=r"b\.png: broken"):
        encode(encoder, some(), Encoding(8, HALVES, HALVES), RandomViews(CROP_AND_FLIP, 0, 0))


def test_images_that_others_stand_in_for_are_told_once() -> None:
    """In a training with labels the label is that of the other."""
    batches, damage = ViewBatches(some(), CROP_AND_FLIP, 8, HALVES, HALVES, 4, 0, key_views=False), Damage(4, 4)
    loaded = list(batches.run(0, 3, 0))
    with pytest.warns(UserWarning, match=r"replaces b\.png: broken") as caught:
        warn_of_damage(damage, [one for batch in loaded for one in batch.replaced])
    for batch in loaded:
        warn_of_damage(damage, batch.replaced)  # warnings are errors here
    index = torch.cat([batch.index for batch in loaded])
    assert len(caught) == 1
    assert len(index) == 12
    assert 1 not in index.tolist()


def test_a_loading_process_that_dies(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and what to do."""

    def killed(*_: Any) -> None:
        assert torch.utils.data.get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(features, "prepare_image", killed)
    command = ["knn", "--weights", str(tiny_run), "--data", "digits", "--device", "cpu", "--workers", "1"]
    assert main(command) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("moco: error: a loading process was lost: DataLoader worker")
    assert message.endswith("give fewer --workers. Then give the command again")
