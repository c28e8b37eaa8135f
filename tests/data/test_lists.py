"""A text list as people and programs write it: its paths are found, or one line says which is not."""

import os
from pathlib import Path

import pytest

from moco.data.catalog import load
from moco.errors import BadInputError

NAMES = ("1.png", "2.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two empty files, and a list to be written."""
    (tmp_path / "d").mkdir()
    for name in NAMES:
        (tmp_path / "d" / name).touch()
    return tmp_path / "d"


def opened(folder: Path, content: str | bytes, name: str = "list.txt") -> tuple[list[str], list[str] | None]:
    """The paths in a list, and their classes."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    train = load(str(path))["train"]
    labels = None if train.labels is None else [train.classes[label] for label in train.labels]
    return [train.name(i) for i in range(len(train))], labels


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff1.png\n2.png\n", "\ufeff1.png\n2.png\n".encode("utf-16-le"), "\ufeff1.png\n2.png\n".encode("utf-16-be"),
        "1.png\n2.png\n".encode("utf-16-le"), "1.png\n2.png\n".encode("utf-32"),
        '"1.png"\n"2.png"\n', "'1.png'\r\n'2.png'\r\n", ".\\1.png\r2.png\r",
        "1.png,\n2.png,\n", "file\n1.png\n2.png\n", "1.PNG\n2.Png\n", "1\n2\n", "d/1.png\nd/2.png",
        "C:\\data\\1.png\n/gone/2.png\n",
    ],
)  # fmt: skip
def test_ways_to_write_two_paths(folder: Path, content: str | bytes) -> None:
    """Encodings, quotes, slashes, endings, heads, another folder to begin in."""
    found, labels = opened(folder, content)
    assert sorted(os.path.basename(path) for path in found) == list(NAMES)
    assert labels is None


@pytest.mark.parametrize(
    "content",
    [
        "1.png,a\n2.png,b\n", "1.png a\n2.png b\n", "1.png\ta\n2.png\tb\n", "label;filename\na;1.png\nb;2.png\n",
        "image,width,class\n1.png,3,a\n2.png,3,b\n", "0,1.png\n1,2.png\n",
    ],
)  # fmt: skip
def test_columns(folder: Path, content: str) -> None:
    """A label beside each path makes classes."""
    found, labels = opened(folder, content, "list.csv")
    assert found == list(NAMES)
    assert labels == (["0", "1"] if content.startswith("0") else ["a", "b"])


def test_a_name_that_looks_like_a_comment(folder: Path) -> None:
    """It is one unless there is such a file."""
    (folder / "#1.png").touch()
    assert opened(folder, "# all\n#1.png\n#2.png\n1.png\n") == (["#1.png", "1.png"], None)


@pytest.mark.parametrize(
    ("written", "there"),
    [("cafe\u0301.png", "caf\u00e9.png"), ("caf\u00e9.png", "cafe\u0301.png"), ("3 pm.png", "3\u202fpm.png"),
     ("a b.png", "a\u00a0b.png"), ("a\u00a0b.png", "a\u00a0b.png")],
)  # fmt: skip
def test_letters_and_spaces_that_look_alike(folder: Path, written: str, there: str) -> None:
    """As macOS composes and spaces the names of files."""
    (folder / there).touch()
    assert opened(folder, written)[0] == [there]


def test_from_the_root_of_the_set(folder: Path) -> None:
    """A list beside the images, or in a folder of lists, whose paths begin above."""
    (folder / "train").mkdir()
    (folder / "train" / "0.png").touch()
    for name in ("train/list.txt", "lists/list.txt"):
        (path,) = opened(folder, "train/0.png\n", name)[0]
        assert os.path.samefile(os.path.join(folder, name.partition("/")[0], path), folder / "train" / "0.png")


def test_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, in the list and as its path."""
    monkeypatch.setenv("HOME", str(folder))
    assert opened(folder, "~/1.png\n")[0] == [str(folder / "1.png")]
    assert len(load("~/list.txt")["train"]) == 1


@pytest.mark.parametrize(
    "content", ["gone.png\n", "a/1.png\nb/1.png\n", "1.png\nmy 2.png\n", "1.png\nmy, 2.png\n", "1.png\n.\n", "x\0y"]
)
def test_what_is_not_found_is_named(folder: Path, content: str) -> None:
    """In one line; nothing is guessed where two lines would lead to one file."""
    with pytest.raises(BadInputError) as caught:
        opened(folder, content)
    assert str(caught.value).startswith("--data ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "line", ["1.png,2.png", '"1.png"; "2.png"', "1.png\t2.png\n", "1.png 2.png", "d/1.png|d/2.png"]
)
def test_one_line_for_all(folder: Path, line: str) -> None:
    """Is refused: only its first image would be read."""
    with pytest.raises(BadInputError, match=r"list\.txt: one line that names 2 files, expected a line for each"):
        opened(folder, line)


def test_one_line_with_a_label(folder: Path) -> None:
    """Also with one that is called as a file is, without its ending."""
    assert opened(folder, "1.png 2") == (["1.png"], ["2"])


@pytest.mark.parametrize("content", [b"\0" * 40_000, b"1.png\0" + b"2.png\0", b"1.png\n2.png\n" * 400 + b"\0"])
def test_bytes_that_are_no_text(folder: Path, content: bytes) -> None:
    """A line that a person can read, and not the bytes themselves."""
    with pytest.raises(BadInputError) as caught:
        opened(folder, content)
    assert len(str(caught.value)) < 400


def test_a_line_without_a_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then there are none, and that is said."""
    assert opened(folder, "1.png,a\n2.png\n") == (list(NAMES), None)
    assert "1 of 2 lines have no label" in capsys.readouterr().err


def test_patterns_leave_out_lines(folder: Path) -> None:
    """As with a folder."""
    opened(folder, "1.png\n2.png\n")
    assert len(load(str(folder / "list.txt"), ["1.*"])["train"]) == 1
    with pytest.raises(BadInputError, match="leaves none"):
        load(str(folder / "list.txt"), ["*.png"])
