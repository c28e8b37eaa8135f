"""Sets that use little of their range: 16-bit files are scaled by one factor, others are warned of."""

import copy
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.commands.pretrain import open_splits
from moco.data.brightness import measure_brightest, settle_white_level
from moco.data.catalog import load
from moco.data.images import Images
from moco.data.notes import Notes
from moco.evaluation.session import all_splits

WHITE = 65535


def sixteen_bits(folder: Path, bits: int, count: int = 6) -> str:
    """Noise of so many bits in 16-bit files, of two sizes so that nothing is held in memory."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        save(folder, number, generator.integers(0, 2**bits, (8 + number % 2, 9), dtype=np.uint16))
    return str(folder)


def save(folder: Path, number: int, values: Any) -> None:
    """Write an image as PNG or TIFF."""
    PillowImage.fromarray(values).save(folder / f"{number:02}.{'png' if number % 2 else 'tif'}")


def settled(folder: Path | str, given: int | None = None) -> tuple[int | None, str]:
    """The white level of a folder, and what is said of it."""
    notes = Notes()
    return settle_white_level(load(str(folder), white_level=WHITE)["train"], given, notes), "\n".join(notes.remarks)


def check_scaled(images: Images, folder: str, level: int) -> None:
    """Each image must be that of its file, by one factor for all, within half a value of a byte."""
    for index in range(len(images)):
        with PillowImage.open(Path(folder) / images.name(index)) as file:
            values = np.minimum(np.asarray(file).astype(np.float64), level)
        for colour in images[index].numpy():
            assert np.abs(colour - values * 255 / level).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_few_bits_in_sixteen_are_scaled(
    tmp_path: Path, bits: int, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Before a run, and before an evaluation or an embedding; the command says by how much."""
    data, level = sixteen_bits(tmp_path / "x", bits), 2**bits - 1
    for splits in (open_splits(data), all_splits(data, "all")):
        check_scaled(splits["train"], data, level)
        assert splits["train"].white_level == level
    assert f"use {bits} bits: {level} becomes white" in capsys.readouterr().err
    assert not recwarn.list


def test_a_full_range_is_not(tmp_path: Path) -> None:
    """Fifteen bits use half, sixteen all; three images are too few to judge, and unreadable ones do not count."""
    for number, (bits, count, level) in enumerate([(15, 6, WHITE), (16, 6, WHITE), (12, 3, None)]):
        data = sixteen_bits(tmp_path / str(number), bits, count)
        assert settled(data) == (level, "")
        check_scaled(open_splits(data)["train"], data, WHITE)
    (tmp_path / "0" / "02.tif").write_bytes(b"")
    open_splits(str(tmp_path / "0"))


def test_a_given_level_holds(tmp_path: Path) -> None:
    """That of a flag or of weights is applied as it is; where it does not suit the images that is said."""
    data = sixteen_bits(tmp_path / "x", 12)
    check_scaled(load(data, white_level=1000)["train"], data, 1000)
    check_scaled(load(data, white_level=WHITE)["train"], data, WHITE)
    assert settled(data, 4095) == (4095, "")
    assert "4095 suits it" in settled(data, 1023)[1]
    assert "4095 would suit" in settled(data, WHITE)[1]


def test_single_bright_images_and_pixels(tmp_path: Path) -> None:
    """One saturated image, and a defect pixel in each, change nothing; black images do not count."""
    data = Path(sixteen_bits(tmp_path / "x", 12, count=5))
    hot = np.random.default_rng(1).integers(0, 4096, (64, 64), dtype=np.uint16)
    hot[3, 5] = WHITE
    for number in range(5, 9):
        save(data, number, hot)
    save(data, 9, np.full((8, 8), WHITE, np.uint16))
    save(data, 10, np.zeros((8, 8), np.uint16))
    level, remark = settled(data)
    assert level == 4095
    assert "of 10 images 1 have brighter values" in remark


def test_images_of_two_ranges_are_not_scaled(tmp_path: Path) -> None:
    """Half of 12 bits and half of 16 bits: one factor does not suit both."""
    data = Path(sixteen_bits(tmp_path / "x", 12, count=4))
    for number in range(4, 8):
        save(data, number, np.random.default_rng(2).integers(0, 65536, (8, 9), dtype=np.uint16))
    level, remark = settled(data)
    assert level == WHITE
    assert "of 8 16-bit images 4 use 12 bits or fewer" in remark


def test_negative_values_read_as_unsigned(tmp_path: Path) -> None:
    """Hounsfield units in unsigned files lie at both ends of the range; black and white do too, and are no such."""
    for name, sign in (("ct", 1), ("text", 0)):
        (tmp_path / name).mkdir()
        for number in range(4):
            values = np.random.default_rng(number).integers(-1000, 2000, (8, 9)).astype(np.int16)
            page = np.where(values > 0, WHITE, 0).astype(np.uint16)
            save(tmp_path / name, number, values.view(np.uint16) if sign else page)
        level, remark = settled(tmp_path / name)
        assert level == WHITE
        assert ("negative" in remark) == bool(sign)


def test_photographs_among_them_stay(tmp_path: Path) -> None:
    """Files of 8 bits are not scaled, nor is a set that has only these; dark ones are warned of."""
    data = Path(sixteen_bits(tmp_path / "x", 12))
    PillowImage.fromarray(np.full((8, 8, 3), 40, np.uint8)).save(data / "z.png")
    assert set(load(str(data))["train"][6].flatten().tolist()) == {40}
    (tmp_path / "dark").mkdir()
    for number in range(6):
        PillowImage.fromarray(np.full((8 + number, 8, 3), 40, np.uint8)).save(tmp_path / "dark" / f"{number}.png")
    assert settled(tmp_path / "dark") == (None, "")
    with pytest.warns(UserWarning, match="nearly black"):
        open_splits(str(tmp_path / "dark"))
    assert measure_brightest(load(str(tmp_path / "dark"))["train"]) == 40


def test_every_kind_of_set(tmp_path: Path) -> None:
    """Shards, lists, parts of them and what is held in memory are scaled as their files are; so are copies."""
    data = Path(sixteen_bits(tmp_path / "x", 12))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(data, "x")
    (tmp_path / "list.txt").write_text("".join(f"x/{path.name}\n" for path in sorted(data.iterdir())))
    for place, exclude in (("x.tar", ()), ("list.txt", ()), ("x", ("05*",)), ("x.tar", ("05*",))):
        images = load(str(tmp_path / place), exclude)["train"]
        assert images.white_level == 4095
        for own in (images, copy.deepcopy(images)):
            assert max(int(own[index].max()) for index in range(5)) > 250
    even = tmp_path / "even"
    even.mkdir()
    for number in range(4):
        save(even, number, np.full((8, 8), 4095 - number, np.uint16))
    splits = open_splits(str(even))
    assert splits["train"].in_memory
    assert int(splits["train"][0].max()) == 255
    assert splits["train"].white_level == 4095
