"""Evaluations keep the features that they compute, and read them again."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from moco.core.encoder import Encoder, EncoderPlan, Output
from moco.data import fingerprint
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.images import ArrayImages, FileImages
from moco.evaluation import again, identity, once
from moco.evaluation.again import encode_again, encode_networks
from moco.evaluation.features import Encoding, encode, encode_grids
from moco.evaluation.once import FOLDER, encode_once
from moco.evaluation.pixels import build_raw_pixels
from moco.interop.checkpoints import random_weights
from tests.evaluation.test_once import HOW, PLAN, write_pictures


@pytest.mark.parametrize("output", ["plain", "backbone"])
@pytest.mark.parametrize("unit", [False, True])
def test_evaluations_encode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Output, unit: bool) -> None:
    """Plain features are kept where encoding took long; whitened and of unit length they are as if encoded anew."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    images = ArrayImages(torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8))
    encoder = random_weights(EncoderPlan("resnet18-w4", image_size=8), 0, IMAGENET_MEAN, IMAGENET_STD).encoder
    encoder.add_whitening()
    how = Encoding(8, IMAGENET_MEAN, IMAGENET_STD, output, unit=unit)
    expected = encode(encoder, images, how)
    torch.testing.assert_close(encode_again(encoder, images, how, None), expected)
    assert not (tmp_path / FOLDER).exists()  # it took no time

    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    torch.testing.assert_close(encode_again(encoder, images, how, None), expected)
    monkeypatch.setattr(again, "encode", lambda *_, **__: pytest.fail("encoded again"))
    torch.testing.assert_close(encode_again(encoder, images, how, None), expected)
    for other in ({"precision": "bf16"}, {"image_size": 6}, {"mean": (0.5, 0.5, 0.5)}):
        with pytest.raises(pytest.fail.Exception, match="encoded again"):
            encode_again(encoder, images, dataclasses.replace(how, **other), None)


def change_images(images: FileImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> FileImages:
    """Take those of another folder."""
    return write_pictures(Path(os.fsdecode(images.root)).with_name("b"), 200)


def change_processor(images: FileImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> FileImages:
    """Go to another machine that has the same $MOCO_DATA."""
    monkeypatch.setattr(identity, "processor", lambda: "another")
    return images


def change_version(images: FileImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> FileImages:
    """Install other versions."""
    monkeypatch.setattr(identity, "version", lambda _: "0.0")
    return images


def change_network(images: FileImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> FileImages:
    """Take a network that has tensors of the same names and shapes."""
    encoder.plan = dataclasses.replace(encoder.plan, arch="another")
    return images


def change_own_size(images: FileImages, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> FileImages:
    """Build the network for another size, of which its windows may depend."""
    encoder.plan = dataclasses.replace(encoder.plan, image_size=16)
    return images


Change = Callable[[FileImages, Encoder, pytest.MonkeyPatch], FileImages]


@pytest.mark.parametrize("change", [change_images, change_processor, change_version, change_network, change_own_size])
def test_evaluations_encode_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Whatever features depend on is another: those that were kept are not used."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    encoder = random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD).encoder
    images = write_pictures(tmp_path / "a", 10)
    encode_again(encoder, images, HOW)
    images = change(images, encoder, monkeypatch)
    monkeypatch.setattr(again, "encode", lambda *_, **__: pytest.fail("encoded again"))
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        encode_again(encoder, images, HOW)


def test_features_of_images_without_marks_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Very large sets mark some of their images only, so that a change of others would not be seen."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(fingerprint, "MOST_ROWS", 1)
    encode_again(random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD).encoder, write_pictures(tmp_path / "a", 1), HOW)
    assert not (tmp_path / "data").exists()


def test_features_of_evaluations_take_limited_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not read for longest are removed, with what a killed command left, and no other file."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    weights, folder = random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD), tmp_path / FOLDER
    sets = [ArrayImages(torch.full((2, 3, 8, 8), value, dtype=torch.uint8)) for value in range(4)]
    encode_once(weights, sets[0], HOW, "encoding")
    others = {*folder.iterdir(), folder / "evaluated-mine.safetensors"}
    (folder / "evaluated-mine.safetensors").write_text("mine")

    def kept() -> set[Path]:
        return {*folder.iterdir()} - others

    files = list[Path]()
    for number, images in enumerate(sets[:3]):
        encode_again(weights.encoder, images, HOW)
        (new,) = kept() - {*files}
        files.append(new)
        os.utime(new, (number, number))
    left = folder / f"{files[0].name}.00ff00ff.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    encode_again(weights.encoder, sets[0], HOW)  # is read, and so the newest
    monkeypatch.setattr(again, "MOST_KEPT", files[0].stat().st_size * 3)
    encode_again(weights.encoder, sets[3], HOW)
    assert kept() >= {files[0], files[2]}
    assert len(kept()) == 3
    assert not kept() & {files[1], left}
    assert all(path.exists() for path in others)


def test_raw_pixels_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take 3 kB an image, and hardly any time."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    images = ArrayImages(torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8))
    encoder, how = build_raw_pixels(Encoding(8, IMAGENET_MEAN, IMAGENET_STD), "cpu")
    torch.testing.assert_close(encode_again(encoder, images, how, None), encode(encoder, images, how))
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("why", ["large", "no folder", "unreachable", "no room"])
def test_evaluations_go_on_where_features_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Nothing but time is lost."""
    (tmp_path / "file").write_text("")
    places = {"no folder": "file", "unreachable": 300 * "a"}  # the system refuses to say what a long name is
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / places.get(why, "data")))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(again, "MOST_BYTES", 0 if why == "large" else again.MOST_BYTES)
    if why == "no room":
        monkeypatch.setattr(once, "save_tensors", raise_no_room)
    images = ArrayImages(torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8))
    encoder = random_weights(EncoderPlan("resnet18-w4", image_size=8), 0, IMAGENET_MEAN, IMAGENET_STD).encoder
    how = Encoding(8, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(encode_again(encoder, images, how, None), encode(encoder, images, how))
    assert not (tmp_path / "data").exists()


def raise_no_room(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("room", "encoded"), [(1 << 29, [[3, 1, 2]]), (12_000, [[3], [1, 2]])])
def test_grids_are_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, encoded: list[list[int]]
) -> None:
    """All of them at the first time, if there is room; each is kept for itself, and is what `encode_grids` gives."""
    monkeypatch.setattr(again, "MOST_BYTES", room)
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(again, "LEAST_SECONDS", 0.0)
    plan = EncoderPlan("resnet10-w4", "cifar", image_size=24)
    encoder, how = (
        random_weights(plan, 0, IMAGENET_MEAN, IMAGENET_STD).encoder,
        Encoding(24, IMAGENET_MEAN, IMAGENET_STD),
    )
    images = ArrayImages(torch.randint(256, (9, 3, 24, 24), dtype=torch.uint8))
    assert encoder.grids(24) == (1, 2, 3)
    expected = torch.split(
        encode_grids(encoder, images, dataclasses.replace(how, unit=False), (1, 2, 3)), [32, 128, 288], 1
    )
    monkeypatch.setattr(again, "encode_grids", asked := Mock(side_effect=encode_grids))
    monkeypatch.setattr(again, "fingerprint", looked := Mock(side_effect=fingerprint.fingerprint))
    (finest,) = encode_networks(encoder, images, how, grids=(3,))
    for _ in range(2):
        found = encode_networks(encoder, images, how, grids=(1, 2, 3))
        torch.testing.assert_close(found, list(expected))
        assert torch.equal(found[2], finest)
    assert [call.args[3] for call in asked.call_args_list] == encoded
    assert looked.call_count == 3  # once each time, for all grids
