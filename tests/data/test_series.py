"""Series of frames: who may be whose partner, against an oracle that lists them; lists, and what is wrong with them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from moco.data.series import Series, group_by_folder, read_series
from moco.errors import BadInputError
from moco.runtime.randomness import Stream, uniforms

FRAMES = ["b/f2.png", "b/f10.png", "a/1.png", "b/f1.png", "a/2.png", "c/0.png"]


def draw(series: Series, index: int, times: int = 400) -> Counter[str]:
    """Count the partners of an image over many epochs."""
    return Counter(FRAMES[row] for row in series(np.full(times, index), np.arange(times), 0))


@pytest.mark.parametrize("within", [1, 2])
def test_neighbours_are_other_frames_of_the_folder(within: int) -> None:
    """In the order of their numbers, as an oracle counts them; each that is near enough is drawn alike."""
    series = Series(group_by_folder(FRAMES), len(FRAMES), within)
    ordered = [["a/1.png", "a/2.png"], ["b/f1.png", "b/f2.png", "b/f10.png"], ["c/0.png"]]
    for index, name in enumerate(FRAMES):
        own = next(one for one in ordered if name in one)
        place = own.index(name)
        expected = {own[other] for other in range(len(own)) if 0 < abs(other - place) <= within} or {name}
        drawn = draw(series, index)
        assert drawn.keys() == expected
        assert min(drawn.values()) > 400 / len(expected) * 0.7


def test_the_numbers_are_those_of_one_draw() -> None:
    """The number that chooses among several series changes nothing where there is one."""
    given = {"seed": 3, "stream": Stream.PRETEXT, "epoch": np.arange(5), "index": np.arange(5)}
    assert (uniforms(2, **given)[:, :1] == uniforms(1, **given)).all()  # type: ignore[arg-type]


def test_a_list_has_its_own_order(tmp_path: Path) -> None:
    """Over folders; an image may be in several series, each drawn alike, or in none: then it is its own partner."""
    path = tmp_path / "series.txt"
    path.write_text("# frames\n\nb/f2.png\ta/1.png\tc/0.png\r\nb/f2.png , b/f1.png\n", encoding="utf-8-sig")
    series = Series(read_series(str(path), FRAMES), len(FRAMES), 1)
    assert draw(series, 2).keys() == {"b/f2.png", "c/0.png"}
    assert draw(series, 5).keys() == {"a/1.png"}
    assert draw(series, 1).keys() == {"b/f10.png"}
    several = draw(series, 0)
    assert several.keys() == {"a/1.png", "b/f1.png"}
    assert min(several.values()) > 140
    wide = Series(read_series(str(path), FRAMES), len(FRAMES), 2)
    assert draw(wide, 2).keys() == {"b/f2.png", "c/0.png"}
    assert draw(wide, 5).keys() == {"a/1.png", "b/f2.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.png\ta/2.png\na/1.png\tz.png\n", r"line 2: no image 'z.png' in --data: expected a path .* 'b/f2.png'"),
        ("\na/1.png\n", r"line 2: one name \(a/1.png\), expected two or more"),
        ("a/1.png,a/2.png,a/1.png", "line 1: 'a/1.png' is there twice"),
        ("# nothing\n", "no series in it"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    """By file, number and name, in one line."""
    path = tmp_path / "series.txt"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message) as caught:
        read_series(str(path), FRAMES)
    assert str(caught.value).startswith(f"--series {path}")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(BadInputError, match="--series none: cannot be read"):
        read_series("none", FRAMES)
