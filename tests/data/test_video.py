"""Videos as `--data`: PyAV writes them, and their frames are images."""

import importlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.data import notes
from moco.data.catalog import load
from moco.data.images import Images
from moco.data.named import absolute_data
from moco.errors import BadInputError

av: Any = importlib.import_module("av")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where frames are written."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(notes, "_printed", set())
    return tmp_path / "home"


def film(path: Path, frames: int, rate: int = 4, level: int = 10) -> Path:
    """A video whose frame i is grey of `level` + 20 i, with frames that depend on later ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 32, 16, "yuv420p", 10**6
        stream.codec_context.max_b_frames = 2
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level + 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def greys(images: Images) -> list[int]:
    """The grey of each frame, to the nearest 10."""
    assert all(images[row].shape == (3, 16, 32) for row in range(len(images)))
    return [round(float(images[row].float().mean()) / 10) * 10 for row in range(len(images))]


def test_frames_of_one_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every Nth, or one a second; in the order of display, without labels, and decoded once."""
    path = film(tmp_path / "clip.mp4", 9)
    images = load(f"every=2@{path}")["train"]
    assert greys(images) == [10, 50, 90, 130, 170]
    assert images.labels is None
    assert [images.name(row).partition("/")[2] for row in (0, 1)] == ["clip/00000000.jpg", "clip/00000002.jpg"]
    assert capsys.readouterr().err.count("writing the frames of 1 videos once") == 1
    again = load(f"every=2@{path}")["train"]
    assert [again.encoded(row) for row in range(5)] == [images.encoded(row) for row in range(5)]
    assert "writing" not in capsys.readouterr().err
    assert greys(load(str(path))["train"]) == [10, 90, 170]


def test_folders_of_videos(tmp_path: Path) -> None:
    """Folders are splits and classes as those of images are; clips beside each other are no classes."""
    for name, level in (("train/cat/a", 10), ("train/dog/b", 20), ("test/dog/c", 30)):
        film(tmp_path / "set" / f"{name}.mp4", 2, level=level)
    splits = load(f"every=1@{tmp_path / 'set'}")
    assert {split: (greys(images), images.classes) for split, images in splits.items()} == {
        "train": ([10, 30, 20, 40], ("cat", "dog")), "test": ([30, 50], ("cat", "dog")),
    }  # fmt: skip
    for name in ("a", "b"):
        film(tmp_path / "flat" / f"{name}.mp4", 1)
    flat = load(str(tmp_path / "flat"))["train"]
    assert (len(flat), flat.labels, flat.classes) == (2, None, ())


def test_what_is_no_video(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each: damaged, a sound, no videos, no frames asked for, no library; nothing stays."""
    path = tmp_path / "x.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    (tmp_path / "empty").mkdir()
    for data, said in (
        (str(path), "x.mp4: cannot be decoded"), (f"every=0@{path}", "N of 1 or more"),
        (f"every=3@{tmp_path / 'empty'}", "no videos there"),
    ):  # fmt: skip
        with pytest.raises(BadInputError, match=said) as caught:
            load(data)
        assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in home.rglob("*") if path.is_file()]
    monkeypatch.setattr("moco.data.video.find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"momentum-contrast\[video\]"):
        load(str(path))


def test_a_choice_holds_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run keeps of its data is absolute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    assert absolute_data("every=5@clips") == f"every=5@{tmp_path / 'clips'}"
    assert absolute_data("every=5@gone") == "every=5@gone"
    assert absolute_data("digits") == "digits"
