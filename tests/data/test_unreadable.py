"""Images that cannot be decoded are found, and left out where that is asked for."""

from pathlib import Path

import pytest
from PIL import Image

from moco.data.catalog import load
from moco.data.unreadable import find_unreadable, leave_out_unreadable


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (8, 9, 10, 11)])
def test_they_are_left_out_with_a_warning(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """The others keep their order, names and labels."""
    for number, side in enumerate(sizes):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (side, side)).save(path)
    sound = load(str(tmp_path))["train"]
    assert leave_out_unreadable(sound) is sound
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    images = load(str(tmp_path))["train"]
    ((row, reason),) = find_unreadable(images, 2)
    assert images.name(row) == "a/2.png"
    assert "2.png" in reason
    with pytest.warns(UserWarning, match=r"left out 1 image that cannot be read: a/2\.png"):
        left = leave_out_unreadable(images)
    assert [left.name(place) for place in range(len(left))] == ["a/0.png", "b/1.png", "b/3.png"]
    assert left.labels is not None
    assert left.labels.tolist() == [0, 1, 1]
