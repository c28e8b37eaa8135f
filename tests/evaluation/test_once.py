"""What follows from images is computed once for each set of weights, images and settings."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moco.core.encoder import Encoder, EncoderPlan, Output
from moco.data import fingerprint
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.images import ArrayImages, FileImages
from moco.data.paths import PathTable
from moco.errors import BadInputError
from moco.evaluation import identity, once
from moco.evaluation.features import Encoding, encode
from moco.evaluation.once import FOLDER, Kept, Parts, compute_in_parts, compute_once, encode_again, encode_once
from moco.evaluation.pixels import build_raw_pixels
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
    """Images of which only so many are read before Ctrl-C."""

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

    monkeypatch.setattr(once, "LEAST_SECONDS", 0.0)
    torch.testing.assert_close(encode_again(encoder, images, how, None), expected)
    monkeypatch.setattr(once, "encode", lambda *_, **__: pytest.fail("encoded again"))
    torch.testing.assert_close(encode_again(encoder, images, how, None), expected)
    for other in ({"precision": "bf16"}, {"image_size": 6}, {"mean": (0.5, 0.5, 0.5)}):
        with pytest.raises(pytest.fail.Exception, match="encoded again"):
            encode_again(encoder, images, dataclasses.replace(how, **other), None)


PLAN = EncoderPlan("resnet10-w4", image_size=8)
HOW = Encoding(8, IMAGENET_MEAN, IMAGENET_STD)


def write_pictures(folder: Path, value: int) -> FileImages:
    """Write two pictures of the same names, sizes and times whatever their value."""
    folder.mkdir()
    for name in ("0.ppm", "1.ppm"):
        (folder / name).write_bytes(b"P6 8 8 255\n" + bytes([value] * 192))
        os.utime(folder / name, (0, 0))
    return FileImages(os.fsencode(folder), PathTable([b"0.ppm", b"1.ppm"]))


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
    monkeypatch.setattr(once, "LEAST_SECONDS", 0.0)
    encoder = random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD).encoder
    images = write_pictures(tmp_path / "a", 10)
    encode_again(encoder, images, HOW)
    images = change(images, encoder, monkeypatch)
    monkeypatch.setattr(once, "encode", lambda *_, **__: pytest.fail("encoded again"))
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        encode_again(encoder, images, HOW)


def test_features_of_images_without_marks_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Very large sets mark some of their images only, so that a change of others would not be seen."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(once, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(fingerprint, "MOST_ROWS", 1)
    encode_again(random_weights(PLAN, 0, IMAGENET_MEAN, IMAGENET_STD).encoder, write_pictures(tmp_path / "a", 1), HOW)
    assert not (tmp_path / "data").exists()


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


def test_features_of_evaluations_take_limited_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not read for longest are removed, with what a killed command left, and no other file."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(once, "LEAST_SECONDS", 0.0)
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
    monkeypatch.setattr(once, "MOST_KEPT", files[0].stat().st_size * 3)
    encode_again(weights.encoder, sets[3], HOW)
    assert kept() >= {files[0], files[2]}
    assert len(kept()) == 3
    assert not kept() & {files[1], left}
    assert all(path.exists() for path in others)


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
    dead = folder / f"{once._file_of(about).name}-0007.00ff00ff.part"

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
    assert {*folder.iterdir()} == {once._file_of(about)}


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


def test_raw_pixels_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take 3 kB an image, and hardly any time."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr(once, "LEAST_SECONDS", 0.0)
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
    monkeypatch.setattr(once, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(once, "MOST_BYTES", 0 if why == "large" else once.MOST_BYTES)
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
