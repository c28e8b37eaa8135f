"""A file that is cut while it is mapped ends the process with one line that names it."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.dlpack

from moco.data.ahead import load_ahead, watch_loading
from moco.data.columns import Column, map_array
from moco.data.images import ArrayImages
from moco.runtime.mapped import explain_address, explain_failed_reads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say which address failed")


@pytest.fixture
def cut(tmp_path: Path) -> Column:
    """An array that is mapped from a file, which then loses all but its first bytes."""
    path = tmp_path / "pixels.npy"
    np.save(path, np.ones((64, 3, 16, 16), np.uint8))
    mapped = map_array(path)
    os.truncate(path, 4096)
    return mapped


def take_rows(mapped: Column) -> object:
    """Take pixels as a training does, without Python's lock."""
    return ArrayImages(torch.utils.dlpack.from_dlpack(mapped)).stack(np.arange(32, 64))


@pytest.mark.parametrize("read", [np.sum, take_rows])
def test_a_file_that_is_cut_is_named(cut: Column, tmp_path: Path, read: Callable[[Column], object]) -> None:
    """In place of the signal that ends a process without a word."""
    said = tmp_path / "said"
    if not (child := os.fork()):
        explain_failed_reads(said.write_text)
        read(cut)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert said.read_text() == (
        f"{tmp_path}/pixels.npy: truncated, or its disk failed, while it was read: restore the complete file"
    )


def sum_rows(mapped: Column, item: int) -> int:
    """Read a part of it."""
    return int(mapped[item].sum())


def test_a_loading_process_names_it(cut: Column) -> None:
    """The run ends with what the process said."""
    with (
        pytest.raises(ChildProcessError, match=r"was lost: .*/pixels.npy: truncated, .* checkpoint is valid"),
        watch_loading(),
    ):
        list(load_ahead(functools.partial(sum_rows, cut), [0, 60], workers=1))


def test_other_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shared memory that is full is said to be; of what no file holds, no file is blamed."""
    maps = tmp_path / "maps"
    maps.write_text("1000-2000 rw-s 00000000 00:01 7     /dev/shm/torch_1 (deleted)\n2000-3000 rw-p 00000000 00:00 0\n")
    monkeypatch.setattr("moco.runtime.mapped.MAPS", maps)
    assert explain_address(0x1000).startswith("/dev/shm is full: ")
    assert explain_address(0x2000).startswith("memory of this process")
