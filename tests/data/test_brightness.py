"""Sets that use little of their range are warned of, by the value that was found."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.commands.pretrain import open_splits
from moco.data.brightness import measure_brightest
from moco.data.catalog import load
from moco.evaluation.session import all_splits


def sixteen_bits(folder: Path, bits: int, count: int = 6) -> str:
    """Noise of so many bits in 16-bit files, of two sizes so that nothing is held in memory."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        values = generator.integers(0, 2**bits, (8 + number % 2, 9), dtype=np.uint16)
        PillowImage.fromarray(values).save(folder / f"{number}.{'png' if number % 2 else 'tif'}")
    return str(folder)


@pytest.mark.parametrize(("bits", "expected"), [(10, 3), (12, 15), (13, 31)])
def test_few_bits_in_sixteen_are_warned_of(tmp_path: Path, bits: int, expected: int) -> None:
    """Before a run, and before an evaluation or an embedding; the value is that of the brightest pixel."""
    data = sixteen_bits(tmp_path / "x", bits)
    assert abs((measure_brightest(load(data)["train"]) or 0) - expected) <= 1
    for use in (open_splits, lambda data: all_splits(data, "all")):
        with pytest.warns(UserWarning, match="nearly black"):
            use(data)


def test_a_full_range_is_not(tmp_path: Path) -> None:
    """Fifteen bits use half, sixteen all; three images are too few to judge, and unreadable ones do not count."""
    open_splits(sixteen_bits(tmp_path / "x", 15))
    open_splits(sixteen_bits(tmp_path / "y", 16))
    open_splits(sixteen_bits(tmp_path / "z", 12, count=3))
    (tmp_path / "x" / "2.tif").write_bytes(b"")
    open_splits(str(tmp_path / "x"))
