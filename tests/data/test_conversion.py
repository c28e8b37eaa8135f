"""What is converted once: into one file for what it was made of, whole or not at all."""

from pathlib import Path

import pytest

from moco.data.conversion import convert_once, identify_file
from moco.errors import BadInputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def test_it_is_made_once_for_what_it_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    """The second time the file is there; other facts are another file."""
    written = list[Path]()

    def write(partial: Path, room: int) -> None:
        written.append(partial)
        partial.write_text("whole")
        assert room > 0

    made = [convert_once("D", "kind", "x.tar", [facts], "making it", "cannot be made", write) for facts in "aab"]
    assert made[0] == made[1] != made[2]
    assert [path.read_text() for path in made] == ["whole"] * 3
    assert len(written) == 2
    assert capsys.readouterr().err.splitlines() == [f"--data D: making it once into {path}" for path in made[1:]]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), BadInputError("damaged"), KeyboardInterrupt()]
)
def test_nothing_stays_of_what_fails(home: Path, error: BaseException) -> None:
    """No file, no half of one, no empty folder; the disk's own failures are named with what to do."""

    def write(partial: Path, _: int) -> None:
        partial.write_text("half")
        raise error

    expected = BadInputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        convert_once("D", "kind", "x.tar", ["a"], "making it", "cannot be made", write)
    assert [path for path in home.rglob("*") if path.name != "kind"] == []
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"--data D: cannot be made into {home}/kind/")
        assert str(caught.value).endswith("(No space left on device): set MOCO_DATA to a folder with more room")


def test_a_changed_file_is_another(tmp_path: Path) -> None:
    """By its size, or its place."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    first = identify_file(tmp_path / "a")
    assert identify_file(tmp_path / "b") != first == identify_file(tmp_path / "." / "a")
    (tmp_path / "a").write_text("12")
    assert identify_file(tmp_path / "a") != first
