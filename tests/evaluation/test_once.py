"""What follows from images is computed once for each set of weights, images and settings."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from moco.core.encoder import EncoderPlan
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.images import ArrayImages, FileImages
from moco.data.paths import PathTable
from moco.errors import BadInputError
from moco.evaluation import once
from moco.evaluation.features import Encoding, encode
from moco.evaluation.once import FOLDER, Kept, Parts, compute_in_parts, compute_once, encode_once
from moco.interop.checkpoints import random_weights


def test_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dependency computes anew, and so does a damaged file."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    calls = []

    def compute() -> Kept:
        calls.append(1)
        return {"x": torch.arange(3)}, {"note": "n"}

    for about, count in [({"a": 1}, 1), ({"a": 1}, 1), ({"a": 2}, 2)]:
        tensors, more = compute_once(about, compute)
        assert tensors["x"].tolist() == [0, 1, 2]
        assert more["note"] == "n"
        assert len(calls) == count
    for path in (tmp_path / FOLDER).iterdir():
        path.write_bytes(b"")
    compute_once({"a": 1}, compute)
    assert len(calls) == 3


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told before anything is computed."""
    (tmp_path / "file").write_text("")
    for name in ("file", 300 * "a"):
        monkeypatch.setenv("MOCO_DATA", str(tmp_path / name))
        with pytest.raises(BadInputError, match="cannot be written, and features are kept there"):
            compute_once({}, lambda: pytest.fail("computed"))


class Interrupted(ArrayImages):
    """Images of which only so many are read before Ctrl-C, one by one as files are."""

    in_memory = False
    left = 10**6

    def __getitem__(self, index: int) -> torch.Tensor:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__getitem__(index)


def test_an_interrupted_encoding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was encoded is not encoded again; features are the same to the last bit, and no part is left behind."""
    monkeypatch.setattr(once, "IMAGES_IN_A_PART", 6)
    images = Interrupted(torch.randint(256, (38, 3, 8, 8), dtype=torch.uint8))
    weights = random_weights(EncoderPlan("resnet10-w4", "cifar", image_size=8), 0, IMAGENET_MEAN, IMAGENET_STD)
    how = Encoding(8, weights.mean, weights.std, batch_size=4)
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "at once"))
    whole = encode_once(weights, images, how, "encoding")
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "in parts"))
    for left, parts in [(19, 2), (7, 2), (9, 3)]:
        images.left = left
        with pytest.raises(KeyboardInterrupt):
            encode_once(weights, images, how, "encoding")
        assert len(list((tmp_path / "in parts" / FOLDER).iterdir())) == parts
    damaged = sorted((tmp_path / "in parts" / FOLDER).iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    images.left = 38 - 8
    assert torch.equal(encode_once(weights, images, how, "encoding"), whole)
    assert images.left == 0
    assert len(list((tmp_path / "in parts" / FOLDER).iterdir())) == 1


PLAN = EncoderPlan("resnet10-w4", image_size=8)
HOW = Encoding(8, IMAGENET_MEAN, IMAGENET_STD)


def write_pictures(folder: Path, value: int) -> FileImages:
    """Write two pictures of the same names, sizes and times whatever their value."""
    folder.mkdir()
    for name in ("0.ppm", "1.ppm"):
        (folder / name).write_bytes(b"P6 8 8 255\n" + bytes([value] * 192))
        os.utime(folder / name, (0, 0))
    return FileImages(os.fsencode(folder), PathTable([b"0.ppm", b"1.ppm"]))


def test_a_teacher_of_another_network_encodes_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors have the same names, shapes and values, as those of two networks that differ in the activation."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "data"))
    weights, images = random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD), write_pictures(tmp_path / "a", 10)
    encode_once(weights, images, HOW, "encoding")
    weights.encoder.plan = dataclasses.replace(PLAN, arch="another")
    monkeypatch.setattr(once, "encode", lambda *_, **__: pytest.fail("encoded again"))
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        encode_once(weights, images, HOW, "encoding")


def test_files_of_another_folder_are_encoded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the same names, sizes and times, as two archives without compression often do; copies are known."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "data"))
    weights = random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD)
    one = encode_once(weights, write_pictures(tmp_path / "a", 10), HOW, "encoding")
    other = encode_once(weights, write_pictures(tmp_path / "b", 200), HOW, "encoding")
    assert not torch.equal(one, other)
    monkeypatch.setattr(once, "encode", lambda *_, **__: pytest.fail("encoded again"))
    assert torch.equal(encode_once(weights, write_pictures(tmp_path / "c", 10), HOW, "encoding"), one)


def test_what_is_computed_once_takes_limited_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a teacher's features, also those under names that an earlier version gave; never what is in use now."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(once, "_in_use", set())
    folder = tmp_path / FOLDER

    def compute(number: int) -> Path:
        before = {*folder.glob("*")}
        compute_once({"number": number}, lambda: ({"x": torch.zeros(100)}, {}))
        return next(iter({*folder.glob("*")} - before), folder)

    files = [compute(number) for number in range(3)]
    earlier, part = folder / f"{32 * 'a'}.safetensors", folder / f"{32 * 'b'}.safetensors-0000"
    others = [folder / "mine.safetensors", folder / f"evaluated-{32 * 'c'}.safetensors"]
    for path in (earlier, part, *others):
        path.write_bytes(bytes(files[0].stat().st_size))
    for age, path in enumerate([earlier, part, *files, *others]):
        os.utime(path, (age, age))
    once._in_use.clear()  # those were other runs
    monkeypatch.setattr(once, "MOST_COMPUTED", 3 * files[0].stat().st_size)
    compute(0)  # is read, and so the newest
    new = compute(3)
    assert {*folder.iterdir()} == {files[0], files[2], new, *others}
    monkeypatch.setattr(once, "MOST_COMPUTED", 0)
    newest = compute(4)
    assert {*folder.iterdir()} == {files[0], new, newest, *others}


def test_two_processes_that_encode_the_same_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ends, and removes the parts, while the other is writing one; what killed ones left is removed."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    about = {"kind": "features"}
    folder = tmp_path / FOLDER
    dead = folder / f"{once.file_of(about).name}-0007.00ff00ff.part"

    def compute(parts: Parts) -> Kept:
        parts.write(0, {"x": torch.zeros(2)}, {}, 0)
        dead.write_bytes(b"half")
        replace = Path.replace

        def end_of_another(partial: Path, target: Path) -> Path:
            monkeypatch.setattr(Path, "replace", replace)
            parts.remove()
            return replace(partial, target)

        monkeypatch.setattr(Path, "replace", end_of_another)
        parts.write(1, {"x": torch.ones(2)}, {}, 2)
        return {"x": torch.arange(4)}, {}

    assert compute_in_parts(about, compute)[0]["x"].tolist() == [0, 1, 2, 3]
    assert {*folder.iterdir()} == {once.file_of(about)}


def test_parts_of_two_processes_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one has other batches than the other, and both are killed, a part may begin in another row."""
    monkeypatch.setattr(once, "IMAGES_IN_A_PART", 6)
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    images = Interrupted(torch.randint(256, (38, 3, 8, 8), dtype=torch.uint8))
    weights = random_weights(EncoderPlan("resnet10-w4", "cifar", image_size=8), 0, IMAGENET_MEAN, IMAGENET_STD)
    ways = [Encoding(8, weights.mean, weights.std, batch_size=size) for size in (4, 7)]
    written = list[dict[Path, bytes]]()
    for how in ways:
        images.left = 30
        with pytest.raises(KeyboardInterrupt):
            encode_once(weights, images, how, "encoding")
        written.append({path: path.read_bytes() for path in sorted((tmp_path / FOLDER).iterdir())})
        for path in written[-1]:
            path.unlink()
    first, *_ = written[1]
    for path, content in {**written[0], first: written[1][first]}.items():
        path.write_bytes(content)
    images.left = 10**6
    found = encode_once(weights, images, ways[0], "encoding")
    torch.testing.assert_close(found, encode(weights.encoder, images, ways[0]))
