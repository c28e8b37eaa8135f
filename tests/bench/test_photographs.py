"""The photographs that the benchmark is measured on."""

from pathlib import Path

import numpy as np
import pytest

from moco.bench import photographs
from moco.bench.cases import JPEGS, PATCHES
from moco.data.decoding import decode
from tests.commands.test_bench import TINY


def test_the_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches and files have their sizes, are not flat, and come again from the same seed."""
    monkeypatch.setattr(photographs, "PATCH_COUNT", 20)
    monkeypatch.setattr(photographs, "JPEG_COUNT", 3)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        photographs.write_photographs(TINY, tmp_path / name, "")
        made.append(np.load(tmp_path / name / PATCHES))
        files = sorted((tmp_path / name / JPEGS).iterdir())
        assert [decode(path).shape for path in files] == [(3, 375, 500)] * 3
        assert all(float(decode(path).float().std()) > 10 for path in files)
    assert made[0].shape == (20, 32, 32, 3)
    assert np.array_equal(*made)
    assert made[0].std() > 10
    held = photographs.images_in(tmp_path / "a", 32)
    assert np.array_equal(held[7].permute(1, 2, 0).numpy(), made[0][7])
    assert len(photographs.images_in(tmp_path / "a", 224)) == 3
